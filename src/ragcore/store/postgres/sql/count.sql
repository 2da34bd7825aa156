-- Count a tenant's documents and chunks, including expired ones. $1 tenant. The planner does not join a subquery with an aggregate to the rest of the
-- statement, so the tenant is set before any row is read.
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant, set_config('ragcore.expired', 'on', true)
)
select d.documents, c.chunks, c.not_embedded
from s cross join lateral (
    select count(*) as documents from {schema}.document where tenant = s.tenant offset 0
) as d cross join lateral (
    select count(*) as chunks, count(*) filter (where embedding is null) as not_embedded from {schema}.chunk where tenant = s.tenant offset 0
) as c

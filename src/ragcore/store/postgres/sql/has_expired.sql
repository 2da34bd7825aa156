-- Return whether a tenant has expired documents that are still stored. $1 tenant
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select d.expired
from s cross join lateral (
    select exists (select from {schema}.document where tenant = s.tenant and expires_at <= now()) as expired
    offset 0
) as d

-- Numbers of a tenant's chunks, and its models, after a search that found nothing. $1 tenant
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select c.chunks, c.not_embedded, d.models
from s cross join lateral (
    select count(*) as chunks, count(*) filter (where embedding is null) as not_embedded from {schema}.chunk where tenant = s.tenant offset 0
) as c cross join lateral (
    select array_agg(distinct model order by model) as models from {schema}.document where tenant = s.tenant offset 0
) as d

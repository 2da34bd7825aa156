-- After a search that found nothing, count the tenant's chunks and list the models of its documents. $1 tenant
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select c.chunks, c.not_embedded, d.models
from s cross join lateral (
    select count(*) as chunks, count(*) filter (where embedding is null) as not_embedded from {schema}.chunk where tenant = s.tenant offset 0
) as c cross join lateral (
    select array_agg(distinct model order by model) as models from {schema}.document where tenant = s.tenant offset 0
) as d

-- Return the vector of a chunk. $1 tenant, $2 id
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select c.embedding
from s cross join lateral (
    select embedding from {schema}.chunk where tenant = s.tenant and chunk.id = $2::text and embedding is not null limit 1
) as c

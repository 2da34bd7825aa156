-- Return random chunks of a tenant that have a vector. Reads the tenant's rows without their vectors, at most a million. $1 tenant, $2 largest number
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select s.tenant, c.id
from s cross join lateral (
    select few.id from (
        select id from {schema}.chunk where tenant = s.tenant and embedding is not null limit 1000000
    ) as few
    order by random()
    limit $2::integer
) as c

-- Return the next chunks of all tenants to prepare for text search. The owner runs this. $1 tenant and $2 id of the last chunk, $3 limit
with s as materialized (
    select set_config('ragcore.counting', 'on', true) as counting, set_config('ragcore.expired', 'on', true)
)
select c.tenant, c.id
from s cross join lateral (
    select tenant, id from {schema}.chunk where s.counting is not null and (tenant, id) > ($1::text, $2::text) order by tenant, id limit $3::integer
) as c
order by c.tenant, c.id

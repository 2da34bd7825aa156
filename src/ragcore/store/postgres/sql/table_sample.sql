-- Return random chunks of a tenant in an existing table that have a vector. Reads at most a million of its rows. $1 tenant, $2 largest number
with s as materialized (
    select {tenant} as tenant{settings}
)
select c.id
from s cross join lateral (
    select few.id from (
        select c.id from {rows} where c.tenant = s.tenant and c.embedding is not null limit 1000000
    ) as few
    order by random()
    limit $2::integer
) as c

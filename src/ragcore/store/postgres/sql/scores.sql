-- The similarity of a tenant's chunks to a vector, exact, best first.
-- $1 tenant, $2 vector, $3 how many or null for all
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select c.document_id, c.id, 1::float8 - c.distance as score
from s cross join lateral (
    select document_id, id, embedding operator({vector}.<=>) $2 as distance
    from {schema}.chunk
    where tenant = s.tenant and embedding is not null
    order by (embedding operator({vector}.<=>) $2) + 0::float8, id
    limit $3::integer
) as c
where c.distance <> 'NaN' and abs(c.distance) <> 'Infinity'
order by c.distance, c.id

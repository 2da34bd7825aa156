-- Return the exact similarity of a tenant's chunks to a vector, best first. The result is one row of arrays, because each row would be an object in the client.
-- $1 tenant, $2 vector, $3 largest number, or null for all
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select array_agg(c.document_id order by c.distance, c.id) as document_ids, array_agg(c.id order by c.distance, c.id) as ids,
       array_agg(1::float8 - c.distance order by c.distance, c.id) as scores
from s cross join lateral (
    select document_id, id, embedding operator({vector}.<=>) $2 as distance
    from {schema}.chunk
    where tenant = s.tenant and embedding is not null
    order by (embedding operator({vector}.<=>) $2) + 0::float8, id
    limit $3::integer
) as c
where c.distance <> 'NaN' and abs(c.distance) <> 'Infinity'

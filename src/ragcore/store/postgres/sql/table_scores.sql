-- Return the exact similarity of a tenant's chunks in an existing table to a vector, best first. $1 tenant, $2 vector, $3 largest number, or null for all
with s as materialized (
    select {tenant} as tenant{settings}
)
select array_agg(c.document_id order by c.distance, c.id collate "C") as document_ids, array_agg(c.id order by c.distance, c.id collate "C") as ids,
       array_agg(1::float8 - c.distance order by c.distance, c.id collate "C") as scores
from s cross join lateral (
    select c.document_id, c.id, {distance} as distance
    from {rows}
    where c.tenant = s.tenant and c.embedding is not null
    order by ({distance}) + 0::float8, c.id collate "C"
    limit $3::integer
) as c
where c.distance <> 'NaN' and abs(c.distance) <> 'Infinity'

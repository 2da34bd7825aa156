-- Return the chunks around some chunks, in the order of each document's text. $1 tenant, $2 tenants and $3 ids of the chunks, $4 distance, $5 shared tenants
with {tenants}
select c.*, w.nth, nullif(w.tenant, $1::text) as shared
from s cross join lateral (
    select tenant, id, nth from unnest($2::text[], $3::text[]) with ordinality as wanted (tenant, id, nth) where wanted.tenant = s.tenant
) as w cross join lateral (
    select document_id, position from {schema}.chunk where tenant = w.tenant and id = w.id limit 1
) as middle cross join lateral (
    select {passage_columns}, position
    from {schema}.chunk
    where tenant = w.tenant and document_id = middle.document_id and position between middle.position - $4::integer and middle.position + $4::integer
    order by position
    limit 2 * $4::integer + 1
) as c
order by w.nth, c.position

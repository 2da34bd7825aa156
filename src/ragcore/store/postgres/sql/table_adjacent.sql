-- Return the chunks around some chunks of an existing table, in the order of each document's text. $1 tenant, $2 ids of the chunks, $3 distance
with s as materialized (
    select {tenant} as tenant{settings}
)
select c.*, w.nth, null::text as shared
from s cross join lateral (
    select s.tenant as of, id, nth from unnest($2::text[]) with ordinality as wanted (id, nth) where id is not null offset 0
) as w cross join lateral (
    select c.own_document, c.position from {rows} where c.tenant = w.of and c.own_id = w.id::{id_type} limit 1
) as middle cross join lateral (
    select {passage_columns}, c.position
    from {rows}
    where c.tenant = w.of and c.own_document = middle.own_document and c.position between middle.position - $3::bigint and middle.position + $3::bigint
    order by c.position, c.id collate "C"
    limit 2::bigint * $3::bigint + 1::bigint
) as c
order by w.nth, c.position

-- Return all chunks of a document of an existing table, in the order of its text. $1 tenant, $2 document id as a value of its column or null, $3 document id
with s as materialized (
    select {tenant} as tenant, $3::text as document_id{settings}
)
select c.*, null::text as shared
from s cross join lateral (
    select {passage_columns}{and_embedding}, c.position
    from {rows}
    where c.tenant = s.tenant and (c.own_document = $2::text::{document_type}{or_alone})
    offset 0
) as c
order by c.position, c.id collate "C"

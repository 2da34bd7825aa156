-- Delete those of the documents that are still recorded for a source, with their chunks; return their ids. The records are locked first, so that another
-- writer can't take a document over meanwhile. $1 tenant, $2 ids, $3 source
with own as materialized (
    select document_id from {schema}.origin
    where tenant = $1 and document_id = any($2::text[]) and source = $3::text
    order by document_id
    for update
)
delete from {schema}.document where tenant = $1 and id in (select document_id from own) returning id

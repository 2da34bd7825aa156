-- The chunks of documents that are about to be replaced. $1 tenant, $2 document ids
delete from {schema}.chunk where tenant = $1 and document_id = any($2::text[])

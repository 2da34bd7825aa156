-- Remove the records of sources of documents that another source takes over. $1 tenant, $2 ids
delete from {schema}.origin where tenant = $1 and document_id = any($2::text[])

-- Delete the chunks of documents before they are replaced. $1 tenant, $2 document ids
delete from {schema}.chunk where tenant = $1 and document_id = any($2::text[])

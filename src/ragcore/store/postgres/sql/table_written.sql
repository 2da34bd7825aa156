-- Count the chunks of documents that a search of the tenant can find. $1 tenant, $2 ids of the documents
select count(*) from {rows} where c.tenant = $1::{tenant_type} and c.own_document = any($2::text[]::{document_type}[])

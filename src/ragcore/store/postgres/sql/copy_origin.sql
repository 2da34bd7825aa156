-- Copy the record of a document's source to another collection. $1 tenant, $2 document id
insert into {schema}.origin (tenant, document_id, source, entry, version)
select tenant, document_id, source, entry, version from {other}.origin where tenant = $1 and document_id = $2

-- The copied chunks, as the tenant's. $1 tenant
insert into ragcore.chunk (tenant, id, document_id, position, text, title, source, start_char, end_char, metadata, embedding)
select $1, id, document_id, position, text, title, source, start_char, end_char, metadata, embedding from pg_temp.ragcore_incoming

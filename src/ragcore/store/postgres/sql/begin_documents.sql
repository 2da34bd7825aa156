-- Add or replace the rows of documents before their chunks are written. The rows are sorted by id, because two writers could deadlock otherwise.
-- `finish_documents` sets the content hash. Remove the records of sources of the documents that no source lists any more, or that another source takes over.
-- $1 tenant, $2 ids, $3 models, $4 times at which they expire, $5 ids of documents whose record of a source is removed
with released as (
    delete from {schema}.origin where tenant = $1 and document_id = any($5::text[])
)
insert into {schema}.document (tenant, id, content_hash, model, expires_at)
select $1, given.id, '', given.model, given.expires_at
from unnest($2::text[], $3::text[], $4::timestamptz[]) as given (id, model, expires_at)
order by given.id
on conflict (tenant, id) do update set content_hash = '', model = excluded.model, expires_at = excluded.expires_at, updated_at = now()

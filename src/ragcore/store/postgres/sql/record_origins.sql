-- Record the sources of stored documents, sorted by id, because two writers could deadlock otherwise. A record of another source stays; such documents are
-- returned with their source. $1 tenant, $2 ids, $3 sources, $4 entries, $5 versions
with given as (
    select g.* from unnest($2::text[], $3::text[], $4::text[], $5::text[]) as g (id, source, entry, version)
), recorded as (
    insert into {schema}.origin as known (tenant, document_id, source, entry, version)
    select $1, given.id, given.source, given.entry, given.version
    from given join {schema}.document as document on document.tenant = $1 and document.id = given.id
    order by given.id
    for key share of document
    on conflict (tenant, document_id) do update set entry = excluded.entry, version = excluded.version
    where known.source = excluded.source
        and (known.entry is distinct from excluded.entry or known.version is distinct from excluded.version)
)
select known.document_id, known.source
from {schema}.origin as known join given on given.id = known.document_id
where known.tenant = $1 and known.source <> given.source

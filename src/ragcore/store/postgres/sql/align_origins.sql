-- Copy the records of sources of a tenant's documents from another collection. A record may change while the document stays the same.
-- $1 tenant
with ended as (
    delete from {schema}.origin as known
    where known.tenant = $1 and not exists (
        select from {other}.origin as given where given.tenant = known.tenant and given.document_id = known.document_id
    )
)
insert into {schema}.origin as known (tenant, document_id, source, entry, version)
select given.tenant, given.document_id, given.source, given.entry, given.version
from {other}.origin as given join {schema}.document as document on document.tenant = given.tenant and document.id = given.document_id
where given.tenant = $1
order by given.document_id
on conflict (tenant, document_id) do update set source = excluded.source, entry = excluded.entry, version = excluded.version
where (known.source, known.entry, known.version) is distinct from (excluded.source, excluded.entry, excluded.version)

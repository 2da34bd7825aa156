-- Records which source lists a document, such as a folder, and under which entry. An ingest with --sync deletes only documents that are recorded for its source.
-- A document has at most one source. `version` is null if the source can't tell without reading whether the entry has changed.
create table {schema}.origin (
    tenant      text not null,
    document_id text not null,
    source      text not null,
    entry       text not null,
    version     text,
    primary key (tenant, document_id),
    foreign key (tenant, document_id) references {schema}.document (tenant, id) on delete cascade
);
-- The indexes hold hashes, because an index row is limited to 2,704 bytes, and names of folders and files may be longer together.
create index origin_source on {schema}.origin (tenant, hashtextextended(source, 0), document_id);
create index origin_entry on {schema}.origin (tenant, hashtextextended(entry, 0));

alter table {schema}.origin enable row level security;
alter table {schema}.origin force row level security;
create policy own_rows on {schema}.origin using (
    case when tenant = current_setting('ragcore.tenant', true) then true
         when coalesce(current_setting('ragcore.tenant', true), '') <> '' then false
         else {schema}.tenant_is_missing() end
);

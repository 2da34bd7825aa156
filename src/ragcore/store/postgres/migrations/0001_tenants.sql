-- Creates documents and their chunks. Each row belongs to one tenant.
--
-- Row-level security is forced, so it applies to the owner too. The policy is a CASE, because of the planner. With a plain comparison, the planner evaluates
-- current_setting() at plan time, assumes a tenant with one row, and always prefers the tenant's index with an exact sort. A CASE can't use an index, and
-- the planner assumes that it selects half of the table, so ORDER BY <=> LIMIT walks the HNSW index. Statements that need the tenant's index have their
-- own condition `tenant = …`.

create table {schema}.setting (
    name  text primary key,
    value text not null
);
insert into {schema}.setting values ('model', {model_literal}), ('dimension', '{dimension}');

{lexemes_function}

create table {schema}.document (
    tenant       text not null,
    id           text not null,
    content_hash text not null,
    model        text not null,
    updated_at   timestamptz not null default now(),
    primary key (tenant, id)
);

create table {schema}.chunk (
    tenant      text not null,
    id          text not null,
    document_id text not null,
    position    integer not null,
    text        text not null,
    title       text not null default '',
    source      text not null default '',
    start_char  integer,
    end_char    integer,
    metadata    jsonb not null default '{}',
    embedding   {vector}.vector({dimension}),
    words       tsvector generated always as ({schema}.lexemes(title || E'\n' || text)) stored,
    primary key (tenant, id),
    foreign key (tenant, document_id) references {schema}.document (tenant, id) on delete cascade
){partitioned};
-- Rows stay whole if they fit into a page. If vectors or words were fetched from a TOAST table one by one, a scan of a tenant's rows would take three to
-- ten times as long.
{unpartitioned}alter table {schema}.chunk set (toast_tuple_target = 8160);
-- The document comes first: with the tenant first, the planner uses this index for lookups by id while the table is empty, and keeps that plan.
create index chunk_document on {schema}.chunk (document_id, tenant);

alter table {schema}.document enable row level security;
alter table {schema}.document force row level security;
create policy own_rows on {schema}.document
    using (case when tenant = current_setting('ragcore.tenant', true) then true else false end);

alter table {schema}.chunk enable row level security;
alter table {schema}.chunk force row level security;
create policy own_rows on {schema}.chunk
    using (case when tenant = current_setting('ragcore.tenant', true) then true else false end);

-- Counts all documents and chunks in the store, without reading their content, for the message "this tenant has no documents; the store has 12,000 chunks".
create policy counting on {schema}.document for select to {owner} using (current_setting('ragcore.counting', true) = 'on');
create policy counting on {schema}.chunk for select to {owner} using (current_setting('ragcore.counting', true) = 'on');
create function {schema}.count_all(out documents bigint, out chunks bigint, out not_embedded bigint)
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
    begin  -- by set_config, since an owner who is no superuser may not put the setting into the function's definition
        perform set_config('ragcore.counting', 'on', true);
        select (select count(*) from {schema}.document), count(*), count(*) filter (where embedding is null)
        into documents, chunks, not_embedded from {schema}.chunk;
        perform set_config('ragcore.counting', '', true);
    end
    $$;
revoke all on function {schema}.count_all() from public;

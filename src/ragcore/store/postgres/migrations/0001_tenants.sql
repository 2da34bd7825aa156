-- Documents and their chunks, each row of one tenant.
--
-- Row-level security is forced, so it binds the owner too. The policy is a CASE on purpose: written as a plain comparison the planner takes
-- current_setting() at plan time for a tenant with one row and prefers the tenant's index with an exact sort, for ever; a CASE can't
-- use an index and is taken for half of the table, so ORDER BY <=> LIMIT walks the HNSW index, and statements that want the tenant's index say
-- `tenant = …` themselves.

create table ragcore.setting (
    name  text primary key,
    value text not null
);
insert into ragcore.setting values ('model', {model_literal}), ('dimension', '{dimension}');

create table ragcore.document (
    tenant       text not null,
    id           text not null,
    content_hash text not null,
    model        text not null,
    updated_at   timestamptz not null default now(),
    primary key (tenant, id)
);

create table ragcore.chunk (
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
    words       tsvector generated always as (to_tsvector('english', title || E'\n' || text)) stored,
    primary key (tenant, id),
    foreign key (tenant, document_id) references ragcore.document (tenant, id) on delete cascade
);
-- Rows stay whole where a page has room for them: with vectors or words fetched from a TOAST table one by one, a scan of a tenant's rows
-- takes three to ten times as long.
alter table ragcore.chunk set (toast_tuple_target = 8160);
create index chunk_document on ragcore.chunk (tenant, document_id);

alter table ragcore.document enable row level security;
alter table ragcore.document force row level security;
create policy own_rows on ragcore.document
    using (case when tenant = current_setting('ragcore.tenant', true) then true else false end);

alter table ragcore.chunk enable row level security;
alter table ragcore.chunk force row level security;
create policy own_rows on ragcore.chunk
    using (case when tenant = current_setting('ragcore.tenant', true) then true else false end);

-- How much the whole store holds, and nothing else of it: for "no chunks for this tenant, 12,000 for others".
create policy counting on ragcore.document for select to {owner} using (current_setting('ragcore.counting', true) = 'on');
create policy counting on ragcore.chunk for select to {owner} using (current_setting('ragcore.counting', true) = 'on');
create function ragcore.count_all(out documents bigint, out chunks bigint, out not_embedded bigint)
    language plpgsql security definer
    set search_path = pg_catalog
    as $$
    begin  -- by set_config, since an owner who is no superuser may not put the setting into the function's definition
        perform set_config('ragcore.counting', 'on', true);
        select (select count(*) from ragcore.document), count(*), count(*) filter (where embedding is null)
        into documents, chunks, not_embedded from ragcore.chunk;
        perform set_config('ragcore.counting', '', true);
    end
    $$;
revoke all on function ragcore.count_all() from public;

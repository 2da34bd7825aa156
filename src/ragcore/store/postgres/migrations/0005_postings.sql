-- Stores the words of chunks by tenant and word, sorted by weight, the largest first. So a search reads a limited number of postings for each word, and counts
-- a word's document frequency from an index. docs/explanation/text-search.md compares this with the former scan and with GIN in a definer function. The
-- operators `=` and `<` of text are leakproof, so PostgreSQL uses the index under row-level security. The operator `@@` is not leakproof.
--
-- impact: the BM25 score of a word in a chunk, without the idf, times 1,000; k1 = 1.2, b = 0.75, average length 100 different words. The search has the
-- same formula.
-- Source: S. Robertson, H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009).
create table {schema}.posting (
    tenant   text collate "C" not null,
    lexeme   text collate "C" not null,
    impact   smallint not null,
    chunk_id text collate "C" not null
){partitioned};
create index posting_lexeme on {schema}.posting (tenant, lexeme, impact desc, chunk_id);
create index posting_chunk on {schema}.posting (tenant, chunk_id);
-- Vacuum early: index-only scans need the visibility map, and the planner needs statistics.
{unpartitioned}alter table {schema}.posting set (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

alter table {schema}.posting enable row level security;
alter table {schema}.posting force row level security;
create policy own_rows on {schema}.posting using (
    case when tenant = current_setting('ragcore.tenant', true) then true
         when coalesce(current_setting('ragcore.tenant', true), '') <> '' then false
         else {schema}.tenant_is_missing() end
);

-- Adds the postings of some chunks. `offset 0` prevents PostgreSQL from computing the number of words again for each word.
create function {schema}.add_postings(tenants text[], ids text[], words tsvector[]) returns void
    language sql
    set search_path = pg_catalog, pg_temp
    as $$
        insert into {schema}.posting (tenant, lexeme, impact, chunk_id)
        select chunk.tenant, word.lexeme, round(2200 * word.tf / (word.tf + 0.3 + 0.009 * chunk.words_count)), chunk.id
        from (
            select given.tenant, given.id, given.words, length(given.words) as words_count
            from unnest(tenants, ids, words) as given (tenant, id, words)
            offset 0
        ) as chunk cross join lateral (
            select left(lexeme, 100) as lexeme, coalesce(cardinality(positions), 1)::float8 as tf from unnest(chunk.words) offset 0
        ) as word
        order by chunk.tenant collate "C", word.lexeme collate "C", 3 desc, chunk.id collate "C"
    $$;
create function {schema}.remove_postings(tenants text[], ids text[]) returns void
    language sql
    set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
    as $$
        delete from {schema}.posting as posting
        using (select * from unnest(tenants, ids) as given (tenant, id) order by tenant collate "C", id collate "C") as chunk
        where posting.tenant = chunk.tenant and posting.chunk_id = chunk.id
    $$;

-- Returns the words of a chunk. A text in a script without blanks is split again, because the previous release did not split it into pairs of characters.
create function {schema}.words_of(words tsvector, title text, text text) returns tsvector
    language plpgsql immutable parallel safe
    set search_path = pg_catalog, pg_temp
    as $$
    begin
        if title || text ~ {unspaced_literal} then
            return {schema}.lexemes(title || E'\n' || text);
        end if;
        return words;
    end
    $$;

-- With these triggers, text search also finds chunks that the previous release writes. They run as the owner, so no other role needs to write postings.
create function {schema}.keep_postings() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
    begin
        if tg_op = 'TRUNCATE' then
            truncate {schema}.posting;
            return null;
        end if;
        if tg_op = 'UPDATE' then
            if not exists (select tenant, id, words from added except select tenant, id, words from removed) then
                return null;
            end if;
        end if;
        if tg_op <> 'INSERT' then
            if row_security_active('{schema}.posting'::regclass)
                and exists (select from removed where tenant is distinct from current_setting('ragcore.tenant', true)) then
                raise exception 'chunks of another tenant than ragcore.tenant would leave their words behind' using errcode = 'RC003';
            end if;
            perform {schema}.remove_postings(array_agg(tenant), array_agg(id)) from removed;
        end if;
        if tg_op <> 'DELETE' then
            perform {schema}.add_postings(array_agg(tenant), array_agg(id), array_agg({schema}.words_of(words, title, text))) from added;
        end if;
        return null;
    end
    $$;
create trigger add_postings after insert on {schema}.chunk
    referencing new table as added for each statement execute function {schema}.keep_postings();
create trigger remove_postings after delete on {schema}.chunk
    referencing old table as removed for each statement execute function {schema}.keep_postings();
create trigger change_postings after update on {schema}.chunk
    referencing old table as removed new table as added for each statement execute function {schema}.keep_postings();
create trigger truncate_postings after truncate on {schema}.chunk
    for each statement execute function {schema}.keep_postings();

-- Collect no statistics: they would keep pieces of erased texts, and no plan needs them.
alter table {schema}.chunk
    alter column text set statistics 0, alter column title set statistics 0, alter column source set statistics 0,
    alter column metadata set statistics 0, alter column words set statistics 0;

-- Returns the postings of a word that the caller may see, largest weight first. The function switches bitmap scans off. Without statistics, the planner would
-- choose a bitmap scan, which reads all postings of the word before the limit; ORDER BY does not prevent that.
create function {schema}.postings(of_tenant text, of_lexeme text, most integer) returns table (chunk_id text, impact smallint)
    language plpgsql stable strict rows 1000
    set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
    as $$
    begin
        return query
            select posting.chunk_id, posting.impact from {schema}.posting
            where posting.tenant = of_tenant and posting.lexeme = of_lexeme
            order by posting.impact desc, posting.chunk_id
            limit most;
    end
    $$;

revoke all on function {schema}.add_postings(text[], text[], tsvector[]), {schema}.words_of(tsvector, text, text), {schema}.remove_postings(text[], text[]), {schema}.keep_postings(),
    {schema}.postings(text, text, integer) from public;
update {schema}.setting set value = case when pg_relation_size({chunk_literal}::regclass) = 0 then 'ready' else 'pending' end where name = 'text';

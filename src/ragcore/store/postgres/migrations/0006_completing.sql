-- A tenant's nearest chunks by comparing all of them, or so many, for searches through the index that found too few. A function, since a part of a
-- statement that is hardly ever needed would cost each search a tenth of its time; strict, so that with null it does nothing.
create function {schema}.nearest_exactly(of_tenant text, question {vector}.vector, depth integer, most integer)
    returns table (
        id text, document_id text, text text, title text, source text, start_char integer, end_char integer, metadata jsonb, distance float8
    )
    language plpgsql stable strict rows 10
    set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
    as $$
    #variable_conflict use_column
    begin
        return query
            select chunk.id, chunk.document_id, chunk.text, chunk.title, chunk.source, chunk.start_char, chunk.end_char, chunk.metadata,
                   chunk.embedding operator({vector}.<=>) question as distance
            from (
                select * from {schema}.chunk as whole
                where whole.tenant = of_tenant and whole.embedding is not null
                limit most
            ) as chunk
            order by (chunk.embedding operator({vector}.<=>) question) + 0::float8, chunk.id collate "C"
            limit depth;
    end
    $$;
revoke all on function {schema}.nearest_exactly(text, {vector}.vector, integer, integer) from public;

-- Returns a tenant's nearest chunks if too few of the first {ef_search} chunks of the index belong to the tenant. The function checks at most `tuples` further
-- chunks of the index. If the walk ends before it has found {enough_in_function} chunks of the tenant, the nearest ones may be missing, so the function also
-- compares the tenant's chunks one by one, at most `most`. It is not a part of the statement, because a part that is rarely needed would make each search a
-- tenth slower. The function is strict, so it does nothing if the tenant is null.
--
-- The walk returns chunks in a rough order, so more than the wanted number are fetched and sorted. The planner assumes that the order is exact and would not
-- sort again; `+ 0` makes a sort key for which the planner assumes no order. EXECUTE makes the limits known to the planner. The function contains the indexed
-- expression, so it is replaced together with the index.
create or replace function {schema}.nearest_further(
    of_tenant text, question {vector}.vector, depth integer, tuples integer, most integer
)
    returns table (
        id text, document_id text, text text, title text, source text, start_char integer, end_char integer, metadata jsonb, distance float8,
        scan text
    )
    language plpgsql strict rows 10
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        found bigint := 0;
        one record;
        part integer := {part_in_function};
    begin
        perform set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.max_scan_tuples', tuples::text, true);
        for one in execute format(
            'select *, count(*) over () as found from (
                select id, document_id, text, title, source, start_char, end_char, metadata, embedding operator({vector}.<=>) $2 as distance
                from {chunks_in_function} where {own_in_function} order by {indexed_in_function} limit %s
            ) as fetched order by distance + 0::float8, id collate "C" limit %s', {fetched_in_function}, depth
        ) using of_tenant, question loop
            found := one.found;
            id := one.id; document_id := one.document_id; text := one.text; title := one.title; source := one.source;
            start_char := one.start_char; end_char := one.end_char; metadata := one.metadata; distance := one.distance; scan := 'index';
            return next;
        end loop;
        if found < {enough_in_function} then
            return query execute format(
                'select id, document_id, text, title, source, start_char, end_char, metadata, embedding operator({vector}.<=>) $2 as distance, ''completed''
                from (select * from {schema}.chunk as whole where whole.tenant = $1 and whole.embedding is not null limit %s) as chunk
                order by (embedding operator({vector}.<=>) $2) + 0::float8, id collate "C" limit %s', most, depth
            ) using of_tenant, question;
        end if;
    end
    $$;
revoke all on function {schema}.nearest_further(text, {vector}.vector, integer, integer, integer) from public

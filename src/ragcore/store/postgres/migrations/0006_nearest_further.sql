-- Returns a tenant's nearest chunks if too few of the first {ef_search} chunks of the index belong to the tenant. The function checks at most `tuples` further
-- chunks of the index. If it still finds too few, it compares the tenant's chunks one by one, at most `most`. It is not a part of the statement, because a
-- part that is rarely needed would make each search a tenth slower. The function is strict, so it does nothing if the tenant is null.
--
-- The walk returns chunks in a rough order, so ten times the wanted number is fetched and sorted. The planner assumes that the order is exact and would not
-- sort again; `+ 0` makes a sort key for which the planner assumes no order. EXECUTE makes the limits known to the planner.
create function {schema}.nearest_further(of_tenant text, question {vector}.vector, depth integer, tuples integer, most integer)
    returns table (
        id text, document_id text, text text, title text, source text, start_char integer, end_char integer, metadata jsonb, distance float8,
        scan text
    )
    language plpgsql strict rows 10
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        found integer;
    begin
        perform set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.max_scan_tuples', tuples::text, true);
        return query execute format(
            'select * from (
                select id, document_id, text, title, source, start_char, end_char, metadata, embedding operator({vector}.<=>) $2 as distance, ''index''
                from {schema}.chunk where {own_in_function} order by {indexed_in_function} limit %s
            ) as fetched order by distance + 0::float8, id collate "C" limit %s', 10 * depth, depth
        ) using of_tenant, question;
        get diagnostics found = row_count;
        if found < depth then
            return query execute format(
                'select id, document_id, text, title, source, start_char, end_char, metadata, embedding operator({vector}.<=>) $2 as distance, ''completed''
                from (select * from {schema}.chunk as whole where whole.tenant = $1 and whole.embedding is not null limit %s) as chunk
                order by (embedding operator({vector}.<=>) $2) + 0::float8, id collate "C" limit %s', most, depth
            ) using of_tenant, question;
        end if;
    end
    $$;
revoke all on function {schema}.nearest_further(text, {vector}.vector, integer, integer, integer) from public;

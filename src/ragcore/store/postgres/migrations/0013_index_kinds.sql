-- Records the kind of the collection's index and its parameters. Searches must sort by the indexed expression, so the store reads them.
insert into {schema}.setting values ('index', {index_literal}), ('index_m', '16'), ('index_ef_construction', '64');

-- Returns random chunks of all tenants, at most `most`, to measure the recall of the index. The function runs as the owner, because the calling role sees only
-- one tenant at a time. It returns names and no content: the vectors are then read tenant by tenant. It reads about four pages for each chunk.
create function {schema}.sample_chunks(most integer, out of_tenant text, out chunk_id text) returns setof record
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        pages float8 := (
            select sum(pg_relation_size(oid)) / 8192 from pg_class
            where oid = {chunk_literal}::regclass or oid in (select inhrelid from pg_inherits where inhparent = {chunk_literal}::regclass)
        );
    begin
        perform set_config('ragcore.counting', 'on', true), set_config('ragcore.expired', 'on', true);
        return query
            select chunk.tenant, chunk.id from {schema}.chunk as chunk tablesample system (least(100, 400 * most / greatest(pages, 1)))
            where chunk.embedding is not null and (chunk.expires_at is null or chunk.expires_at > now())
            order by random()
            limit most;
        perform set_config('ragcore.counting', '', true), set_config('ragcore.expired', '', true);
    end
    $$;
revoke all on function {schema}.sample_chunks(integer) from public

-- Vectors of questions, which processes share. `key` is a keyed digest of tenant, model and text; `vector` has little-endian float32 numbers. The table is
-- unlogged: writes don't reach the WAL, and after a crash of the server it is empty.
create unlogged table {schema}.cached_vector (
    tenant     text not null,
    key        bytea not null,
    vector     bytea not null,
    expires_at timestamptz not null,
    primary key (tenant, key)
);
-- Vectors don't shrink.
alter table {schema}.cached_vector alter column vector set storage external;
create index cached_vector_expires_at on {schema}.cached_vector (expires_at);

alter table {schema}.cached_vector enable row level security;
alter table {schema}.cached_vector force row level security;
create policy own_rows on {schema}.cached_vector using (
    case when tenant = current_setting('ragcore.tenant', true) then true
         when coalesce(current_setting('ragcore.tenant', true), '') <> '' then false
         else {schema}.tenant_is_missing() end
);
create policy counting on {schema}.cached_vector for select to {owner} using (current_setting('ragcore.counting', true) = 'on');

-- Removes expired rows of all tenants, and further ones while there are more than `most` (null: no limit), at most `at_once`; returns their number.
create function {schema}.trim_cached_vectors(most bigint, at_once integer) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        too_many bigint := 0;
        removed bigint := 0;
        removed_here bigint;
        old record;
    begin
        perform set_config('ragcore.counting', 'on', true);
        if most is not null then
            select greatest(count(*) - most, 0) into too_many from {schema}.cached_vector;
        end if;
        for old in
            select tenant, array_agg(key) as keys
            from (select tenant, key, expires_at, row_number() over (order by expires_at) as place
                  from {schema}.cached_vector order by expires_at limit at_once) as first
            where place <= too_many or expires_at <= now()
            group by tenant
        loop
            perform set_config('ragcore.tenant', old.tenant, true);
            delete from {schema}.cached_vector as c where c.tenant = old.tenant and c.key = any(old.keys);
            get diagnostics removed_here = row_count;
            removed := removed + removed_here;
        end loop;
        perform set_config('ragcore.tenant', '', true), set_config('ragcore.counting', '', true);
        return removed;
    end
    $$;
revoke all on function {schema}.trim_cached_vectors(bigint, integer) from public;

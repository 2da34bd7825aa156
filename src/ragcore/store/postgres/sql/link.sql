-- Link a collection to another one of its group: if a document is deleted in one, a trigger deletes it in the other. So a client may delete in either of them.
-- The trigger runs as the owner, because the role that deletes may have no rights on the other collection. The triggers stop calling each other when a
-- statement has deleted nothing.
create or replace function {schema}.{function}() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
    begin
        if exists (select from removed) then
            if row_security_active('{other}.document'::regclass)
                and exists (select from removed where tenant is distinct from current_setting('ragcore.tenant', true)) then
                raise exception 'documents of another tenant than ragcore.tenant would stay in {other}' using errcode = 'RC003';
            end if;
            delete from {other}.document as document using removed where document.tenant = removed.tenant and document.id = removed.id;
        end if;
        return null;
    end
    $$;
create or replace trigger {function} after delete on {schema}.document
    referencing old table as removed for each statement execute function {schema}.{function}();

-- Puts this collection into use for its group. Raises an error while it differs from the collection in use, since questions would miss documents.
create or replace function {schema}.use_collection() returns void
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        active text := (select value from {schema}.setting where name = 'active');
        member text;
        differing bigint;
    begin
        perform pg_advisory_xact_lock({lock});
        active := (select value from {schema}.setting where name = 'active');
        if active = {schema_literal} then
            return;
        end if;
        perform set_config('ragcore.counting', 'on', true);
        execute format(
            'select count(*) from {schema}.document as here full join %I.document as there using (tenant, id)
             where here.content_hash is distinct from there.content_hash', active
        ) into differing;
        perform set_config('ragcore.counting', '', true);
        if differing > 0 then
            raise exception 'the collection % is in use, and % documents of {schema} differ from it', active, differing
                using errcode = 'RC002', hint = format('run `ragcore {command} --from %s --to %s`', active, {schema_literal});
        end if;
        foreach member in array string_to_array((select value from {schema}.setting where name = 'group'), ',') loop
            execute format('update %I.setting set value = %L where name = ''active''', member, {schema_literal});
        end loop;
    end
    $$;
revoke all on function {schema}.{function}(), {schema}.use_collection() from public;
grant execute on function {schema}.use_collection() to {role};
insert into {schema}.setting values ('group', {group_literal}), ('active', {active_literal}), ('former_models', {former_literal})
on conflict (name) do update set value = excluded.value

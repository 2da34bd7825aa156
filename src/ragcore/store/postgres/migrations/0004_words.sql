-- Name pg_temp last. Otherwise PostgreSQL searches temporary objects first, and the check of a caller's temporary domain would run as the owner.
alter function {schema}.count_all() set search_path = pg_catalog, pg_temp;

-- Adds settings of a collection, words of any language, and an error if no tenant is set. The previous release works with these changes.

insert into {schema}.setting values ('language', {language_literal}), ('vector_type', 'vector'), ('contracted', 'false'), ('text', 'pending');

{lexemes_function}

-- Raises an error for a statement without a tenant, because without an error the store would seem empty. The owner may count all chunks without a tenant, by
-- its own policy.
create function {schema}.tenant_is_missing() returns boolean
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
    as $$
    begin
        if current_setting('ragcore.counting', true) = 'on'
            and pg_has_role(current_user, (select relowner from pg_class where oid = {chunk_literal}::regclass), 'usage') then
            return false;
        end if;
        raise exception 'ragcore.tenant is not set: no statement may read or write rows of ragcore without naming a tenant'
            using errcode = 'RC001', hint = 'select set_config(''ragcore.tenant'', …, true) in the same transaction';
    end
    $$;

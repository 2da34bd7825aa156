-- Stores the tenants whose documents other tenants may search, such as the terms of all plans. Only the owner can add a tenant to this table.
create table {schema}.shared_tenant (
    tenant text collate "C" primary key
);

-- Makes the rows of shared tenants readable for the current transaction, and returns the tenants. Raises an error if one of them is not shared.
create function {schema}.search_shared(tenants text[]) returns text[]
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        others text;
    begin
        select string_agg(quote_literal(wanted), ', ' order by wanted) into others
        from unnest(tenants) as wanted
        where not exists (select from {schema}.shared_tenant where shared_tenant.tenant = wanted);
        if others is not null then
            raise exception 'not shared: %', others using errcode = 'RC004';
        end if;
        perform set_config('ragcore.shared', tenants::text, true);
        return tenants;
    end
    $$;
revoke all on function {schema}.search_shared(text[]) from public;

-- These policies apply only to SELECT: PostgreSQL joins them to `own_rows` by OR. They check the list themselves, because any role can change the setting. The
-- first branch keeps the check cheap for searches that name no shared tenant.
create policy shared_rows on {schema}.chunk for select using (
    case when coalesce(current_setting('ragcore.shared', true), '') = '' then false
         when tenant = any (current_setting('ragcore.shared', true)::text[]) then tenant in (select s.tenant from {schema}.shared_tenant as s)
         else false end
);
create policy shared_rows on {schema}.posting for select using (
    case when coalesce(current_setting('ragcore.shared', true), '') = '' then false
         when tenant = any (current_setting('ragcore.shared', true)::text[]) then tenant in (select s.tenant from {schema}.shared_tenant as s)
         else false end
);

-- Adds the times at which documents expire. After that time, no search finds their chunks, not even a search of the previous release, because the policy is
-- joined to the others by AND. Statements that write or count set `ragcore.expired` to see expired rows as well. The policy uses OR, because the planner knows
-- from the statistics that the first part is true for nearly all rows. For a CASE, it would assume half of the table.
alter table {schema}.document add column expires_at timestamptz;
alter table {schema}.chunk add column expires_at timestamptz;
create index document_expires_at on {schema}.document (expires_at) where expires_at is not null;
create policy not_expired on {schema}.chunk as restrictive for select using (
    expires_at is null or expires_at > now() or current_setting('ragcore.expired', true) = 'on'
);

-- The previous release does not know about expiry. A document that it replaces never expires afterwards, and it must see the chunks that it replaces. This
-- release sets the time itself, and always sets `ragcore.expired`.
create function {schema}.drop_expiry() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
    begin
        if current_setting('ragcore.expired', true) is distinct from 'on' then
            new.expires_at := null;
            perform set_config('ragcore.expired', 'on', true);
        end if;
        return new;
    end
    $$;
create trigger drop_expiry before update on {schema}.document
    for each row when (old.expires_at is not null and new.content_hash = '') execute function {schema}.drop_expiry();
revoke all on function {schema}.drop_expiry() from public;

create or replace function {schema}.count_all(out documents bigint, out chunks bigint, out not_embedded bigint)
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
    begin  -- by set_config, since an owner who is no superuser may not put the setting into the function's definition
        perform set_config('ragcore.counting', 'on', true), set_config('ragcore.expired', 'on', true);
        select (select count(*) from {schema}.document), count(*), count(*) filter (where embedding is null)
        into documents, chunks, not_embedded from {schema}.chunk;
        perform set_config('ragcore.counting', '', true), set_config('ragcore.expired', '', true);
    end
    $$;

-- Removes expired documents of all tenants, at most `most`; returns their number by tenant. The function runs as the owner, because the calling role sees only
-- one tenant at a time. Searches don't find these documents even before they are removed.
create function {schema}.remove_expired(most integer, out of_tenant text, out documents bigint) returns setof record
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        due record;
    begin
        perform set_config('ragcore.counting', 'on', true), set_config('ragcore.expired', 'on', true);
        for due in
            select oldest.tenant, array_agg(oldest.id order by oldest.id) as ids
            from (
                select document.tenant, document.id from {schema}.document as document
                where document.expires_at <= now()
                order by document.expires_at, document.tenant, document.id
                limit most
            ) as oldest
            group by oldest.tenant
            order by oldest.tenant
        loop
            perform set_config('ragcore.tenant', due.tenant, true);
            delete from {schema}.document as document
            where document.tenant = due.tenant and document.id = any(due.ids) and document.expires_at <= now();
            get diagnostics documents = row_count;
            of_tenant := due.tenant;
            return next;
        end loop;
        perform set_config('ragcore.tenant', '', true), set_config('ragcore.counting', '', true), set_config('ragcore.expired', '', true);
    end
    $$;
revoke all on function {schema}.remove_expired(integer) from public;

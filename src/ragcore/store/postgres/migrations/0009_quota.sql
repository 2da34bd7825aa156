-- What each tenant has used of its limits, for all processes together. `requests` and `tokens` are levels of buckets that leak: the limit of a minute runs
-- out of them in a minute, and one that is full takes no more. `calls` has the calls under way with the moment at which each place comes back by itself, if
-- the process that took it is gone.
-- Source: J. Turner, "New directions in communications" (1986): the leaky bucket as a meter.
create table {schema}.quota (
    tenant   text primary key,
    at       timestamptz not null default clock_timestamp(),
    requests float8 not null default 0,
    tokens   float8 not null default 0,
    day      date not null default (now() at time zone 'utc')::date,
    spent    float8 not null default 0,
    calls    jsonb not null default '{}'
) with (fillfactor = 50);

alter table {schema}.quota enable row level security;
alter table {schema}.quota force row level security;
create policy own_rows on {schema}.quota using (
    case when tenant = current_setting('ragcore.tenant', true) then true
         when coalesce(current_setting('ragcore.tenant', true), '') <> '' then false
         else {schema}.tenant_is_missing() end
);
create policy counting on {schema}.quota for select to {owner} using (current_setting('ragcore.counting', true) = 'on');

-- A tenant's row as it is now, locked. Null limits count as none.
create function {schema}.quota_of(of_tenant text, most_requests float8, most_tokens float8) returns {schema}.quota
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        known {schema}.quota;
        moment timestamptz;
        minutes float8;
    begin
        -- A crash may lose the last moment's counts, and no call waits for the disk.
        perform set_config('ragcore.tenant', of_tenant, true), set_config('synchronous_commit', 'off', true);
        insert into {schema}.quota (tenant) values (of_tenant) on conflict (tenant) do nothing;
        select * into known from {schema}.quota where tenant = of_tenant for update;
        moment := clock_timestamp();  -- after the lock, which may have been waited for
        minutes := greatest(extract(epoch from moment - known.at)::float8, 0) / 60;
        known.at := moment;
        known.requests := case when most_requests is null then 0 else greatest(known.requests - minutes * most_requests, 0) end;
        known.tokens := case when most_tokens is null then 0 else greatest(known.tokens - minutes * most_tokens, 0) end;
        if known.day <> (moment at time zone 'utc')::date then
            known.day := (moment at time zone 'utc')::date;
            known.spent := 0;
        end if;
        known.calls := (
            select coalesce(jsonb_object_agg(key, value), '{}') from jsonb_each(known.calls) where value::float8 > extract(epoch from moment)::float8
        );
        return known;
    end
    $$;

-- Lets a call in, if each of the limits that are not null has room for it, for at most so many seconds.
create function {schema}.admit_call(
    of_tenant text, call text, seconds float8, most_requests float8, most_tokens float8, most_calls integer, most_spent float8,
    out admitted boolean, out requests float8, out tokens float8, out calls integer, out spent float8
)
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        known {schema}.quota := {schema}.quota_of(of_tenant, most_requests, most_tokens);
    begin
        calls := (select count(*) from jsonb_object_keys(known.calls));
        admitted := coalesce(known.requests + 1 <= most_requests, true) and coalesce(known.tokens + least(1, most_tokens) <= most_tokens, true)
            and coalesce(calls < most_calls, true) and coalesce(known.spent < most_spent, true);
        if admitted then
            known.requests := known.requests + 1;
            known.calls := known.calls || jsonb_build_object(call, extract(epoch from known.at)::float8 + seconds);
            update {schema}.quota as q set at = known.at, requests = known.requests, tokens = known.tokens, day = known.day, spent = known.spent, calls = known.calls
            where q.tenant = of_tenant;
        end if;
        requests := known.requests;
        tokens := known.tokens;
        spent := known.spent;
    end
    $$;

-- Counts what was used, and gives a call's place back.
create function {schema}.settle_call(of_tenant text, call text, used_tokens float8, cost float8, most_requests float8, most_tokens float8) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        known {schema}.quota := {schema}.quota_of(of_tenant, most_requests, most_tokens);
    begin
        update {schema}.quota as q
        set at = known.at, requests = known.requests, tokens = known.tokens + used_tokens, day = known.day, spent = known.spent + cost,
            calls = known.calls - call
        where q.tenant = of_tenant;
    end
    $$;

-- Forgets tenants whose row says nothing any more: nothing is spent today, and all else has come back long since.
create function {schema}.remove_old_quotas() returns void
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        old text;
    begin
        perform set_config('ragcore.counting', 'on', true);
        for old in select tenant from {schema}.quota where at < now() - interval '2 days' order by tenant limit 10000 loop
            perform set_config('ragcore.tenant', old, true);
            delete from {schema}.quota as q where q.tenant = old and q.at < now() - interval '2 days';
        end loop;
        perform set_config('ragcore.tenant', '', true), set_config('ragcore.counting', '', true);
    end
    $$;
revoke all on function {schema}.quota_of(text, float8, float8), {schema}.admit_call(text, text, float8, float8, float8, integer, float8),
    {schema}.settle_call(text, text, float8, float8, float8, float8), {schema}.remove_old_quotas() from public;

-- Stores the use of each tenant's limits, for all processes together. `requests` and `tokens` are levels of leaky buckets: a full bucket accepts nothing, and
-- becomes empty within a minute. `calls` holds the running calls, each with a time: then its place becomes free, even if its process has died. `ledgers`
-- holds the use that each process has reported.
-- Source: J. Turner, "New directions in communications" (1986): the leaky bucket as a meter.
create table {schema}.quota (
    tenant   text primary key,
    at       timestamptz not null default clock_timestamp(),
    requests float8 not null default 0,
    tokens   float8 not null default 0,
    day      date not null default (now() at time zone 'utc')::date,
    spent    float8 not null default 0,
    calls    jsonb not null default '{}',
    ledgers  jsonb not null default '{}'
) with (fillfactor = 50);

alter table {schema}.quota enable row level security;
alter table {schema}.quota force row level security;
create policy own_rows on {schema}.quota using (
    case when tenant = current_setting('ragcore.tenant', true) then true
         when coalesce(current_setting('ragcore.tenant', true), '') <> '' then false
         else {schema}.tenant_is_missing() end
);
create policy counting on {schema}.quota for select to {owner} using (current_setting('ragcore.counting', true) = 'on');

-- Records the use of a process for a tenant, frees the places of calls that have ended, and then admits the call `call`, if it is not null and no limit is
-- reached. The call holds its place for at most `seconds`. A process reports its use as sums that only grow, under its own name, so that a statement can be
-- sent again if its answer was lost.
create function {schema}.count_calls(
    of_tenant text, ledger text, used_tokens float8, used_cost float8, finished text[], call text, seconds float8,
    most_requests float8, most_tokens float8, most_calls integer, most_spent float8,
    out admitted boolean, out requests float8, out tokens float8, out calls integer, out spent float8
)
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        known {schema}.quota;
        moment timestamptz;
        now_seconds float8;
        minutes float8;
        counted jsonb;
    begin
        -- No call waits for the disk. A crash may lose the counts of the last moment.
        perform set_config('ragcore.tenant', of_tenant, true), set_config('synchronous_commit', 'off', true);
        insert into {schema}.quota (tenant) values (of_tenant) on conflict (tenant) do nothing;
        select * into known from {schema}.quota where tenant = of_tenant for update;
        moment := clock_timestamp();  -- after the wait for the lock
        now_seconds := extract(epoch from moment)::float8;
        minutes := greatest(extract(epoch from moment - known.at)::float8, 0) / 60;
        requests := case when most_requests is null then 0 else greatest(known.requests - minutes * most_requests, 0) end;
        tokens := case when most_tokens is null then 0 else greatest(known.tokens - minutes * most_tokens, 0) end;
        spent := case when known.day = (moment at time zone 'utc')::date then known.spent else 0 end;
        known.calls := (
            select coalesce(jsonb_object_agg(key, value), '{}') from jsonb_each(known.calls) where value::float8 > now_seconds
        ) - finished;

        counted := known.ledgers -> ledger;
        tokens := tokens + greatest(used_tokens - coalesce((counted ->> 0)::float8, 0), 0);
        spent := spent + greatest(used_cost - coalesce((counted ->> 1)::float8, 0), 0);
        if used_tokens > 0 or used_cost > 0 then
            known.ledgers := (
                select coalesce(jsonb_object_agg(key, value), '{}') from jsonb_each(known.ledgers) where (value ->> 2)::float8 > now_seconds - 86400
            ) || jsonb_build_object(ledger, jsonb_build_array(
                greatest(used_tokens, (counted ->> 0)::float8), greatest(used_cost, (counted ->> 1)::float8), now_seconds
            ));
        end if;

        calls := (select count(*) from jsonb_object_keys(known.calls));
        admitted := call is null or (
            coalesce(requests + 1 <= most_requests, true) and coalesce(tokens + least(1, most_tokens) <= most_tokens, true)
            and coalesce(calls < most_calls, true) and coalesce(spent < most_spent, true)
        );
        if call is not null and admitted then
            requests := requests + 1;
            known.calls := known.calls || jsonb_build_object(call, now_seconds + seconds);
        end if;
        update {schema}.quota as q
        set at = moment, requests = count_calls.requests, tokens = count_calls.tokens, day = (moment at time zone 'utc')::date, spent = count_calls.spent,
            calls = known.calls, ledgers = known.ledgers
        where q.tenant = of_tenant;
    end
    $$;

-- Removes rows that no call has used for two days, at most `most`; returns their number. Such a row is not needed: nothing was spent today, and all buckets are
-- empty.
create function {schema}.remove_old_quotas(most integer) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        old text;
        removed bigint := 0;
    begin
        perform set_config('ragcore.counting', 'on', true);
        for old in select tenant from {schema}.quota where at < now() - interval '2 days' order by tenant limit most loop
            perform set_config('ragcore.tenant', old, true);
            delete from {schema}.quota as q where q.tenant = old and q.at < now() - interval '2 days';
            removed := removed + 1;
        end loop;
        perform set_config('ragcore.tenant', '', true), set_config('ragcore.counting', '', true);
        return removed;
    end
    $$;
revoke all on function
    {schema}.count_calls(text, text, float8, float8, text[], text, float8, float8, float8, integer, float8), {schema}.remove_old_quotas(integer)
    from public;

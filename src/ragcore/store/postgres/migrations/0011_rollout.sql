-- The rollouts, for all processes together. A row holds no data of a tenant, so there is no policy. `evidence` holds the sums that each process has reported
-- since the last change of the state, under the process's own name.
create table {schema}.rollout (
    name       text primary key,
    status     text not null check (status in ('running', 'paused', 'promoted', 'rolled_back')),
    share      float8 not null check (share between 0 and 1),
    steps      float8[] not null,
    reason     text not null default '',
    version    integer not null default 0,
    changed_at timestamptz,
    evidence   jsonb not null default '{}'
) with (fillfactor = 50);

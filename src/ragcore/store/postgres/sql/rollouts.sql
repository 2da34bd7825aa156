-- Return all rollouts, with their evidence.
select name, status, share, steps, reason, version, changed_at, evidence::text from {schema}.rollout order by name

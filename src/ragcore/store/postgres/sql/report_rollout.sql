-- Insert a rollout if it is new, and record the evidence of a process. $1 name, $2 share and $3 steps of a new rollout; $4 ledger (the name under which the
-- process reports), $5 version of the evidence, $6 the evidence as JSON, $7 the largest number of ledgers
insert into {schema}.rollout as r (name, status, share, steps, evidence)
values ($1::text, 'running', $2::float8, $3::float8[], case when $5::integer = 0 then jsonb_build_object($4::text, $6::jsonb) else '{}' end)
on conflict (name) do update
set evidence = case
    when r.version = $5::integer and (r.evidence ? $4::text or (select count(*) from jsonb_object_keys(r.evidence)) < $7::integer)
    then r.evidence || jsonb_build_object($4::text, $6::jsonb)
    else r.evidence end
returning name, status, share, steps, reason, version, changed_at, evidence::text

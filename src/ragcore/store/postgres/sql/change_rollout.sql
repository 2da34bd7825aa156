-- Change a rollout, if its version is still the previous one. $1 name, $2 status, $3 share, $4 reason, $5 new version, $6 the evidence of the new version
-- If the response was lost, the statement is sent again. It then finds its own change, which counts as made.
with changed as (
    update {schema}.rollout
    set status = $2::text, share = $3::float8, reason = $4::text, version = $5::integer, changed_at = now(), evidence = $6::jsonb
    where name = $1::text and version = $5::integer - 1
    returning name
)
select name from changed
union all
select name from {schema}.rollout
where name = $1::text and version = $5::integer and status = $2::text and share = $3::float8 and reason = $4::text

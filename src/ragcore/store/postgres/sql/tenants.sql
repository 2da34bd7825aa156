-- A part of the searches: the tenant, set for the statement.
s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)

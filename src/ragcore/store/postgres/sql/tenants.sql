-- A part of the searches: set the tenant for the statement.
s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)

-- The candidates of a tenant that is known to be small.
s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
),
nearest as (
    select c.*, 'exact' as scan from s cross join lateral ({exactly}) as c
)

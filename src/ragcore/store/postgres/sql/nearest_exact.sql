-- A part of the searches: find the nearest chunks of a tenant that is known to be small.
{tenants},
nearest as (
    select s.tenant, c.*, 'exact' as scan from s cross join lateral ({exactly}) as c
)

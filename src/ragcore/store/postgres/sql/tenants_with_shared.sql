-- A part of the searches: set the tenant for the statement, and list the shared tenants that are searched as well.
settings as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant, {search_shared} as shared
),
s as materialized (
    select t.tenant, t.nth from settings cross join lateral ({each_tenant}) as t
)

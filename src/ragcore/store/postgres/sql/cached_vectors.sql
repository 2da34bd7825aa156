-- Return stored vectors of questions by their keys. $1 tenant, $2 keys
-- `offset 0` is an optimization fence: without it, PostgreSQL joins the subquery like a table, and may read its rows before the tenant is set.
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select c.key, c.vector
from s cross join lateral (
    select key, vector from {schema}.cached_vector where tenant = s.tenant and key = any($2::bytea[]) and expires_at > now()
    offset 0
) as c

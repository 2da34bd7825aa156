-- Return whether a tenant has expired documents that are still stored, or documents that expire soon. $1 tenant, $2 seconds
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select d.expired
from s cross join lateral (
    select exists (select from {schema}.document where tenant = s.tenant and expires_at <= now() + make_interval(secs => $2::float8)) as expired
    offset 0
) as d

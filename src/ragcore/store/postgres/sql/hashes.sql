-- Return content hashes by document id. $1 tenant, $2 ids, or null for all.
-- `offset 0` is an optimization fence: without it, PostgreSQL joins the subquery like a table, and may read its rows before the tenant is set.
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select d.id, d.content_hash
from s cross join lateral (
    select id, content_hash from {schema}.document where tenant = s.tenant and ($2::text[] is null or id = any($2::text[]))
    offset 0
) as d

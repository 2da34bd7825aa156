-- Content hash by document id. $1 tenant, $2 ids or null for all
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select d.id, d.content_hash
from s cross join lateral (
    select id, content_hash from ragcore.document where tenant = s.tenant and ($2::text[] is null or id = any($2::text[]))
) as d

-- Return the recorded sources of documents. $1 tenant, $2 ids
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select o.document_id, o.source, o.entry, o.version
from s cross join lateral (
    select document_id, source, entry, version from {schema}.origin where tenant = s.tenant and document_id = any($2::text[])
    offset 0
) as o

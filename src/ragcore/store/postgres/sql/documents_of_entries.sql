-- Return the documents that are recorded for entries of a source. $1 tenant, $2 source, $3 entries
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select o.document_id, o.source, o.entry, o.version
from s cross join lateral (
    select document_id, source, entry, version from {schema}.origin
    where tenant = s.tenant and source = $2::text and entry = any($3::text[])
        and hashtextextended(entry, 0) = any(array(select hashtextextended(wanted, 0) from unnest($3::text[]) as wanted))
    offset 0
) as o

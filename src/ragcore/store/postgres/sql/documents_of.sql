-- Return documents that are recorded for a source, sorted by id. $1 tenant, $2 source, $3 only ids after this one, $4 limit
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select o.document_id, o.source, o.entry, o.version
from s cross join lateral (
    select document_id, source, entry, version from {schema}.origin
    where tenant = s.tenant and hashtextextended(source, 0) = hashtextextended($2::text, 0) and source = $2::text and document_id > $3::text
    order by document_id
    limit $4::integer
) as o
order by o.document_id

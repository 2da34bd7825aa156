-- Count the documents that are recorded for a source. $1 tenant, $2 source
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select o.documents
from s cross join lateral (
    select count(*) as documents from {schema}.origin
    where tenant = s.tenant and hashtextextended(source, 0) = hashtextextended($2::text, 0) and source = $2::text
    offset 0
) as o

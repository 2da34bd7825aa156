-- Return the documents that differ between two collections. The owner runs this. `wanted` is the source's hash; null if only the target has the document.
-- $1 limit
with s as materialized (
    select set_config('ragcore.counting', 'on', true) as counting
)
select d.tenant, d.id, d.wanted
from s cross join lateral (
    select coalesce(source.tenant, target.tenant) as tenant, coalesce(source.id, target.id) as id, source.content_hash as wanted
    from {schema}.document as source full join {other}.document as target on target.tenant = source.tenant and target.id = source.id
    where s.counting is not null and source.content_hash is distinct from target.content_hash
    order by 1, 2
    limit $1::integer
) as d

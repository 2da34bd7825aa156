-- Return all chunks of a document, in the order of its text. $1 tenant, $2 document id.
-- `offset 0` is an optimization fence: without it, PostgreSQL joins the subquery like a table, and may read its rows before the tenant is set.
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select c.*, null::text as shared
from s cross join lateral (
    select {passage_columns}, position
    from {schema}.chunk where tenant = s.tenant and document_id = $2
    order by position
    offset 0
) as c
order by c.position

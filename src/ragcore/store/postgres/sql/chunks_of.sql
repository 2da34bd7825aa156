-- Return the chunks of a document, with their vectors if the collection is copied. $1 tenant, $2 document id
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant, set_config('ragcore.expired', 'on', true)
)
select c.*
from s cross join lateral (
    select id, position, text, title, source, start_char, end_char, metadata{and_embedding}
    from {schema}.chunk where tenant = s.tenant and document_id = $2
    order by position
    offset 0
) as c
order by c.position

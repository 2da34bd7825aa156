-- The tenant's chunks that have words of the question, best first.
-- $1 tenant, $2 question
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
),
{by_text}
select c.*, null::float8 as score, by_text.text_score, null::float8 as best_score, null::text as scan, {known_size} as chunks
from s cross join by_text cross join lateral (
    select id, document_id, text, title, source, start_char, end_char, metadata
    from {schema}.chunk where tenant = s.tenant and id = by_text.id
    limit 1
) as c
order by by_text.rank

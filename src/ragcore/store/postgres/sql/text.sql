-- Return the tenant's chunks that have words of the question, best first.
-- $1 tenant, $2 question
with {tenants},
{by_text}
select c.*, null::float8 as score, by_text.text_score, {shared} as shared, null::float8 as best_score, null::text as scan, {known_sizes} as chunks
from by_text cross join lateral (
    select {passage_columns}{and_embedding}
    from {schema}.chunk where tenant = by_text.tenant and id = by_text.id
    limit 1
) as c
order by by_text.rank

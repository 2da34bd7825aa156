-- Return the tenant's chunks in an existing table that have words of the question, best first. $1 tenant, $2 question
with s as materialized (
    select {tenant} as tenant{settings}
),
{by_text}
select c.*, null::float8 as score, n.text_score, null::text as shared, null::float8 as best_score, null::text as scan,
       array[(select chunks from size)] as chunks
from by_text as n cross join lateral ({passage}) as c
order by n.rank

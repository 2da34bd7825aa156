-- Return the chunks with given ids, in the order of the ids. $1 tenant, $2 ids. `limit 1` is an optimization fence, like `offset 0` in other statements.
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
select c.*, null::text as shared
from s cross join lateral unnest($2::text[]) with ordinality as wanted (id, nth) cross join lateral (
    select {passage_columns}
    from {schema}.chunk where tenant = s.tenant and chunk.id = wanted.id
    limit 1
) as c
order by wanted.nth

-- Return the chunks of an existing table with given ids, in the order of the ids. $1 tenant, $2 ids
with s as materialized (
    select {tenant} as tenant{settings}
)
select c.*, null::text as shared
from s cross join lateral (
    select s.tenant as of, id, nth from unnest($2::text[]) with ordinality as wanted (id, nth) where id is not null offset 0
) as w cross join lateral (
    select {passage_columns}{and_embedding} from {rows} where c.tenant = w.of and c.own_id = w.id::{id_type} limit 1
) as c
order by w.nth

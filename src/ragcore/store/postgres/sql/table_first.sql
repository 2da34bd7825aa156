-- Return the nearest chunks of a large tenant in an existing table, from the first chunks of the index. If they are too few, the store searches again with
-- `table_vector`. The walk itself reads the passages, because it returns only a few chunks more than are wanted. The client sorts them, removes duplicates and
-- applies the threshold. With `offset 0`, PostgreSQL evaluates the settings before the search. $1 tenant, $2 vector
select {passage_columns}, c.distance, 'index' as scan, null::text as shared{and_vector}
from (select {tenant} as tenant{settings}{index_settings} offset 0) as s cross join lateral ({first}) as c

-- Return the nearest chunks of a tenant in an existing table, in one statement. The client sorts them, removes duplicates and applies the threshold.
-- $1 tenant, $2 vector
with {nearest}
select {passage_columns}, n.distance, n.scan, null::text as shared{and_vector}
from ({found_rows}) as n cross join lateral ({passage}) as c

-- A part of the searches: the nearest chunks, found by the HNSW index. The condition on the tenant is written so that no other index can serve it.
select {columns}, embedding operator({vector}.<=>) $2 as distance
from {schema}.chunk
where {condition}{own} {filter}
order by {indexed}
limit {fetched}

-- A part of the searches: find the nearest chunks by the HNSW index. The condition on the tenant is written so that PostgreSQL can use no other index for it.
select {columns}, embedding operator({vector}.<=>) $2 as distance
from {walked}
where {condition}{own} {filter}
order by {indexed}
limit {fetched}

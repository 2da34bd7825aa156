-- A part of the searches: the nearest chunks as the HNSW index finds them. The tenant is compared in a way that no other index serves.
select {columns}, embedding operator({vector}.<=>) $2 as distance
from {schema}.chunk
where {condition}{own} {filter}
order by {indexed}
limit {fetched}

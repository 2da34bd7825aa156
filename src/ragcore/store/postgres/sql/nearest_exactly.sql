-- A part of the searches: the tenant's nearest chunks by comparing all in {rows}, which is the table or a bounded part of it. `+ 0` keeps it from the
-- HNSW index, LIMIT from being joined with what stands around it.
select {columns}, embedding operator({vector}.<=>) $2 as distance
from {rows}
where {condition}tenant = s.tenant and embedding is not null {filter}
order by (embedding operator({vector}.<=>) $2) + 0::float8, id collate "C"
limit {depth}

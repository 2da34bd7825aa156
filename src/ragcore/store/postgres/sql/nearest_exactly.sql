-- A part of the searches: find the tenant's nearest chunks by comparing all chunks in {rows}, which is the table or a limited part of it. `+ 0` prevents the
-- use of the HNSW index. LIMIT prevents a join with the surrounding statement.
select {columns}, embedding operator({vector}.<=>) $2 as distance
from {rows}
where {condition}tenant = s.tenant and embedding is not null {filter}
order by (embedding operator({vector}.<=>) $2) + 0::float8, id collate "C"
limit {depth}

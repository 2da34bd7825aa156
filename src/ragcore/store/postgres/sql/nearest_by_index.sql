-- A part of the searches: the nearest chunks as the HNSW index finds them. The tenant is compared in a way that no other index serves. More are fetched
-- than are wanted: a walk that goes on after its first {ef_search} chunks gives them in an order that is only about right.
select * from (
    select {columns}, embedding operator({vector}.<=>) $2 as distance
    from {schema}.chunk
    where {condition}{own} {filter}
    order by {indexed}
    limit {fetched}
) as fetched
order by distance, id collate "C"
limit {depth}

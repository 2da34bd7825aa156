-- A part of the searches of an existing table: candidates from a walk through the index, which returns them in a rough order. `+ 0` makes a sort key for
-- which the planner assumes no order. With the CASE around it, PostgreSQL can use no index on the tenant. `found` is the number of chunks that were fetched.
,
by_index as materialized (
    select s.tenant, c.* from s cross join lateral (
        select *, count(*) over () as found from (
            select c.row_table, c.row_place, c.id, {distance} as distance
            from {walked}
            where not s.small and c.embedding is not null and case when c.tenant = s.tenant then true else false end {filter}
            order by {indexed}
            limit {fetched}
        ) as fetched
        order by distance + 0::float8, id collate "C"
        limit {depth}
    ) as c
)

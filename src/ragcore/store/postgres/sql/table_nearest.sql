-- A part of the searches of an existing table: the tenant's nearest chunks. A tenant with few chunks is searched exactly; a larger one through the index,
-- and exactly if the index returns too few. A row is named by its table and place, which are fixed during a statement and need no index.
-- The lateral references and LIMIT fix the order of the steps: settings first, then the choice of plan, then the search.
settings as materialized (
    select {tenant} as tenant{settings}{index_settings}
),
s as materialized (
    select settings.tenant, {small} as small from settings
),
by_index as materialized (
    select s.tenant, c.* from s cross join lateral (
        select * from (
            select c.row_table, c.row_place, c.id, {distance} as distance
            from {walked}
            where not s.small and c.embedding is not null and {own_hidden} {filter}
            order by {indexed}
            limit {fetched}
        ) as fetched
        order by distance + 0::float8, id collate "C"
        limit {depth}
    ) as c
),
nearest as materialized (
    select row_table, row_place, tenant, id, min(distance) as distance, min(scan) as scan
    from (
        select *, 'index' as scan from by_index
        union all
        select s.tenant, c.*, 'exact' from s cross join lateral (
            select c.row_table, c.row_place, c.id, {distance} as distance
            from {rows}
            where s.small and c.tenant = s.tenant and c.embedding is not null {filter}
            order by ({distance}) + 0::float8, c.id collate "C"
            limit {depth}
        ) as c
        union all
        select s.tenant, c.*, 'completed' from s cross join lateral (
            select c.row_table, c.row_place, c.id, {distance} as distance
            from (
                select c.* from {rows}
                where not s.small and (select count(*) from by_index) < {depth}::bigint
                    and c.tenant = s.tenant and c.embedding is not null {filter}
                limit {completed_rows}
            ) as c
            order by ({distance}) + 0::float8, c.id collate "C"
            limit {depth}
        ) as c
    ) as found_rows
    where distance <> 'NaN' and abs(distance) <> 'Infinity'
    group by row_table, row_place, tenant, id
)

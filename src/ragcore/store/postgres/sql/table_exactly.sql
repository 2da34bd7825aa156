-- A part of the searches of an existing table: candidates from a comparison of all of the tenant's vectors. `+ 0` prevents the use of the index.
select s.tenant, c.*, '{scan}' as scan from s cross join lateral (
    select c.row_table, c.row_place, c.id, {distance} as distance
    from {compared}
    order by ({distance}) + 0::float8, c.id collate "C"
    limit {depth}
) as c

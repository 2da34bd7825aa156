-- A part of searches with a filter: if too few of the listed chunks match the filter, and a list was cut, all of the tenant's chunks are scanned as well.
,
scanned as materialized (
    select s.tenant, c.id, c.words, c.length, null::float8 as score
    from s cross join lateral (
        select id, words, octet_length(text)::float8 as length
        from {schema}.chunk
        where (select count(*) from weighed) < {text_depth}::bigint and (select bool_or(is_cut) from list)
            and tenant = s.tenant and words @@ any (array(select query from weight)) {filter}
        limit {most_chunks}
    ) as c
    where not exists (select from weighed where weighed.tenant = s.tenant and weighed.id = c.id)
),
all_weighed as materialized (
    select * from weighed union all select * from scanned
)

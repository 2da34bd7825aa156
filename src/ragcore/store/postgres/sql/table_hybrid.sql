-- Search an existing table by vector and by text, and fuse both rankings by the rules of `hybrid`. $1 tenant, $2 vector, $3 question, $4 threshold or null
with {nearest},
nearest as materialized (
    select row_table, row_place, tenant, id, min(distance) as distance, min(scan) as scan
    from ({found_rows}) as found_rows
    where distance <> 'NaN' and abs(distance) <> 'Infinity'
    group by row_table, row_place, tenant, id
),
usable as materialized (
    select *, 1::float8 - distance as score, row_number() over (order by distance, id collate "C") as rank from nearest
),
{by_text},
met as materialized (
    select row_table, row_place, coalesce(by_vector.tenant, by_text.tenant) as tenant, coalesce(by_vector.id, by_text.id) as id,
           by_vector.score, by_text.text_score, by_vector.rank as vector_rank, by_text.rank as text_rank
    from (select * from usable where rank <= {depth}::bigint) as by_vector full join by_text using (row_table, row_place)
),
scored as materialized (
    select met.row_table, met.row_place, met.tenant, met.id, coalesce(met.score, late.score) as score, met.text_score, met.vector_rank, met.text_rank
    from met left join lateral (
        select case when distance <> 'NaN' and abs(distance) <> 'Infinity' then 1::float8 - distance end as score
        from (
            select {distance} as distance
            from {rows}
            where met.score is null and c.row_place = met.row_place and c.row_table = met.row_table and c.tenant = met.tenant and c.embedding is not null
            limit 1
        ) as one
    ) as late on true
),
bound as materialized (
    select min(score) as lowest, max(score) as highest, max(text_score) as best_text from scored
),
fused as (
    select scored.*, {fused} as fused_score
    from scored cross join bound
    where $4::float8 is null or score is null or score >= $4::float8
    order by fused_score desc, id collate "C"
    limit {top_k}
),
found as materialized (
    select c.*, n.score, n.text_score, null::text as shared, n.fused_score from fused as n cross join lateral ({passage}) as c
)
select found.*, learned.best_score, learned.scan, array[(select chunks from size)] as chunks
from (select (select highest from bound) as best_score, min(scan) as scan from usable) as learned left join found on true
order by fused_score desc, id collate "C"

-- Search by vector and by text, and fuse both rankings. The first {depth} chunks of each ranking are fused. The similarity of a chunk that only text search
-- finds is computed as well, so the threshold applies to every chunk that has a vector. A search that finds nothing still returns one row, with the best score.
-- $1 tenant, $2 vector, $3 question, $4 threshold or null
with {nearest},
usable as materialized (
    select tenant, id, score, scan, row_number() over (order by score desc, id collate "C", tenant collate "C") as rank
    from (
        select tenant, id, 1::float8 - min(distance) as score, min(scan) as scan
        from nearest
        where distance <> 'NaN' and abs(distance) <> 'Infinity'
        group by tenant, id
    ) as usable_rows
),
{by_text},
met as materialized (
    select tenant, id, by_vector.score, by_text.text_score, by_vector.rank as vector_rank, by_text.rank as text_rank
    from (select * from usable where rank <= {depth}::bigint) as by_vector full join by_text using (tenant, id)
),
scored as materialized (
    select met.tenant, met.id, coalesce(met.score, late.score) as score, met.text_score, met.vector_rank, met.text_rank
    from met left join lateral (
        select case when distance <> 'NaN' and abs(distance) <> 'Infinity' then 1::float8 - distance end as score
        from (
            select embedding operator({vector}.<=>) $2 as distance
            from {schema}.chunk
            where met.score is null and tenant = met.tenant and id = met.id and embedding is not null
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
    order by fused_score desc, id collate "C", tenant collate "C"
    limit {top_k}
),
found as materialized (
    select c.*, fused.score, fused.text_score, {shared} as shared, fused.fused_score
    from fused cross join lateral (
        select {passage_columns}{and_embedding}
        from {schema}.chunk where tenant = fused.tenant and id = fused.id
        limit 1
    ) as c
)
select found.*, learned.best_score, learned.scan, {known_sizes} as chunks
from (select (select highest from bound) as best_score, min(scan) as scan from usable) as learned left join found on true
order by fused_score desc, id collate "C"

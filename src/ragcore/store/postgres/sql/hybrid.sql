-- Vector and text search fused by reciprocal rank (k = 60), in one statement. Chunks that only text search finds have no score, and need not reach the
-- threshold. A search that finds nothing still returns one row, with the best score.
-- $1 tenant, $2 vector, $3 question, $4 threshold or null; each ranking is read to the depth of {depth}
with {nearest},
usable as materialized (
    select id, 1::float8 - min(distance) as score, min(scan) as scan, row_number() over (order by min(distance), id collate "C") as rank
    from nearest
    where distance <> 'NaN' and abs(distance) <> 'Infinity'
    group by id
),
by_vector as (
    select * from usable where rank <= {depth}::bigint and ($4::float8 is null or score >= $4::float8)
),
{by_text},
fused as (
    select id, by_vector.score, by_text.text_score,
           coalesce(1::float8 / ({rank_constant}::bigint + by_vector.rank)::float8, 0) + coalesce(1::float8 / ({rank_constant}::bigint + by_text.rank)::float8, 0) as fused_score
    from by_vector full join by_text using (id)
    order by fused_score desc, id collate "C"
    limit {top_k}
),
found as materialized (
    select c.*, fused.score, fused.text_score, fused.fused_score
    from s cross join fused cross join lateral (
        select id, document_id, text, title, source, start_char, end_char, metadata
        from {schema}.chunk where tenant = s.tenant and id = fused.id
        limit 1
    ) as c
)
select found.*, learned.best_score, learned.scan, {known_size} as chunks
from (select max(score) as best_score, min(scan) as scan from usable) as learned left join found on true
order by fused_score desc, id collate "C"

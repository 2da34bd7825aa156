-- Hybrid search of release 0.1, for ten passages. $1 tenant, $2 ef_search, $3 exact, $4 most rows to search exactly, $5 vector, $6 threshold or null, $7 question
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant,
           set_config('hnsw.ef_search', $2::text, true) as ef_search,
           set_config('hnsw.iterative_scan', 'relaxed_order', true) as iterative_scan
),
plan as materialized (
    select s.tenant, coalesce($3::boolean, few.exact) as exact, question.words
    from s cross join lateral (
        select case when $3::boolean is null
            then (select count(*) <= $4::integer from (
                select from ragcore.chunk where tenant = s.tenant  limit $4::integer + 1
            ) as counted)
        end as exact
    ) as few cross join lateral (
        select string_agg('''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''', ' | ')::tsquery as words
        from unnest(to_tsvector('english', $7::text))
    ) as question
),
nearest as (
    select c.*
    from plan cross join lateral (
        select id, embedding operator(public.<=>) $5 as distance
        from ragcore.chunk
        where plan.exact and tenant = plan.tenant and embedding is not null
        order by (embedding operator(public.<=>) $5) + 0
        limit 40
    ) as c
    union all
    select c.*
    from plan cross join lateral (
        select id, embedding operator(public.<=>) $5 as distance
        from ragcore.chunk
        where not plan.exact and case when tenant = plan.tenant then true else false end
        order by embedding operator(public.<=>) $5
        limit 40
    ) as c
),
by_vector as (
    select id, 1 - distance as score, row_number() over (order by distance, id) as rank
    from nearest
    where distance <> 'NaN' and abs(distance) <> 'Infinity' and ($6::float8 is null or 1 - distance >= $6::float8)
),
by_text as (
    select c.id, c.text_score, row_number() over (order by c.text_score desc, c.id) as rank
    from plan cross join lateral (
        select id, ts_rank(chunk.words, plan.words, 1)::float8 as text_score
        from ragcore.chunk as chunk
        where tenant = plan.tenant and chunk.words @@ plan.words
        order by text_score desc, id
        limit 40
    ) as c
),
fused as (
    select id, by_vector.score, by_text.text_score,
           coalesce(1.0 / (60 + by_vector.rank), 0) + coalesce(1.0 / (60 + by_text.rank), 0) as fused_score
    from by_vector full join by_text using (id)
    order by fused_score desc, id
    limit 10
)
select c.id, c.document_id, c.text, c.title, c.source, c.start_char, c.end_char, c.metadata, fused.score, fused.text_score, plan.exact
from plan cross join fused cross join lateral (
    select * from ragcore.chunk where tenant = plan.tenant and id = fused.id
) as c
order by fused.fused_score desc, c.id

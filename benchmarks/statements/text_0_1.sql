-- Text search of release 0.1, for ten passages. $1 tenant, $2 question
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
),
question as materialized (
    select s.tenant, (
        select string_agg('''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''', ' | ')::tsquery
        from unnest(to_tsvector('english', $2::text))
    ) as words
    from s
)
select c.id, c.document_id, c.text, c.title, c.source, c.start_char, c.end_char, c.metadata, null::float8 as score, c.text_score,
       null::boolean as exact
from question cross join lateral (
    select *, ts_rank(chunk.words, question.words, 1)::float8 as text_score
    from ragcore.chunk as chunk
    where tenant = question.tenant and chunk.words @@ question.words
    order by text_score desc, id
    limit 10
) as c
order by c.text_score desc, c.id

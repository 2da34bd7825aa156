-- A part of the searches: find the tenant's chunks that have any of the question's words, by a scan of all chunks. It is used until the postings are complete.
-- The words are joined by OR, because with AND, three of four questions find nothing. The 1 in ts_rank divides the rank by 1 + log(length).
question as materialized (
    select s.tenant, (
        select string_agg('''' || replace(replace(lexeme, chr(92), repeat(chr(92), 2)), '''', '''''') || '''', ' | ')::tsquery
        from unnest({schema}.lexemes({question}))
    ) as words
    from s
),
by_text as materialized (
    select tenant, id, text_score, row_number() over (order by text_score desc, id collate "C", tenant collate "C") as rank
    from (
        select question.tenant, c.id, c.text_score
        from question cross join lateral (
            select id, ts_rank(chunk.words, question.words, 1)::float8 as text_score
            from {schema}.chunk as chunk
            where tenant = question.tenant and chunk.words @@ question.words {filter}
            order by text_score desc, id collate "C"
            limit {text_depth}
        ) as c
        order by c.text_score desc, c.id collate "C", question.tenant collate "C"
        limit {text_depth}
    ) as best
)

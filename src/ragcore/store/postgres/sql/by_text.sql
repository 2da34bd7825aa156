-- A part of the searches: the tenant's chunks that have any of the question's words, best first by BM25. The number of rows read depends on the question
-- and not on the tenant's size: for each word, the {listed} postings with the largest weight, then the best {reranked} of their chunks. A word that nearly
-- every chunk has selects few chunks, but counts in the ranking.
-- MATERIALIZED and the lateral references fix the order; `offset 0` prevents PostgreSQL from computing expressions twice. `collate "default"` is needed:
-- with the postings' collation, PostgreSQL could not use the primary key of chunk.
size as materialized (
    select coalesce({chunks}, (
        select count(*) from (select from {schema}.chunk where tenant = s.tenant limit {most_chunks}) as counted
    ))::float8 as chunks
    from s
),
word as materialized (
    select s.tenant, q.nth, left(q.lexeme, 100) as lexeme, least({listed}::bigint, greatest({listed}0::bigint / q.words, 50::bigint))::integer as most,
           ('''' || replace(replace(q.lexeme, chr(92), repeat(chr(92), 2)), '''', '''''') || '''')::tsquery as query
    from s cross join lateral (
        select lexeme, row_number() over () as nth, count(*) over () as words
        from (select lexeme from unnest({schema}.lexemes({question})) order by positions[1] limit 64) as first_words
        offset 0
    ) as q
),
hit as materialized (
    select w.nth, w.most, p.chunk_id, p.impact,
           row_number() over (partition by w.nth) as place, count(*) over (partition by w.nth) as listed
    from word as w cross join lateral {schema}.postings(w.tenant, w.lexeme, w.most) as p
),
list as materialized (
    select nth, max(listed) as listed, bool_or(listed >= most::bigint) as is_cut from hit group by nth
),
-- Some chunks of each list. If the list of a word was cut, the share of these chunks that has the word shows how common it is.
sample as materialized (
    select h.nth, c.words
    from s cross join (
        select nth, chunk_id from hit
        where place % greatest(listed / 24::bigint, 1::bigint) = 0::bigint and exists (select from list where is_cut)
        offset 0
    ) as h cross join lateral (
        select words from {schema}.chunk where tenant = s.tenant and id = h.chunk_id collate "default" limit 1
    ) as c
),
weight as materialized (
    select w.nth, w.query, ln(1::float8 + greatest(size.chunks - d.df, 0.5::float8) / (d.df + 0.5::float8)) as idf
    from size cross join list as l join word as w using (nth) cross join lateral (
        select case
            when not l.is_cut then l.listed::float8
            else greatest(l.listed::float8, size.chunks * (select avg((sample.words @@ w.query)::integer)::float8 from sample where sample.nth <> l.nth))
        end as df
        offset 0
    ) as d
),
candidate as materialized (
    select h.chunk_id, sum(weight.idf * h.impact::float8) as score
    from hit as h join weight using (nth)
    group by h.chunk_id
    order by score desc, h.chunk_id
    {candidates_limit}
),
weighed as materialized (
    select c.id, c.words, r.score / 1000::float8 as score
    from s cross join (select chunk_id, score from candidate order by score desc, chunk_id offset 0) as r cross join lateral (
        select id, words from {schema}.chunk where tenant = s.tenant and id = r.chunk_id collate "default" {filter} limit 1
    ) as c
    limit {reranked}
){completing_text},
by_text as materialized (
    select id, text_score, row_number() over (order by text_score desc, id collate "C") as rank
    from (
        -- Chunks of the previous release have words of scripts without blanks only in their postings; these words keep the score of the postings.
        select c.id, coalesce(t.score, c.score) as text_score
        from {weighed} as c cross join lateral (
            -- With all weights 1, ts_rank of one word is the sum of 1/i² for i up to tf, divided by π²/6. The expression below is the inverse: it returns
            -- tf within 5 %.
            select sum(weight.idf * f.tf * 2.2::float8 / (f.tf + 0.3::float8 + 0.009::float8 * length(c.words)::float8)) as score
            from weight cross join lateral (
                select 1::float8 / (1.64493406685::float8 * (1.0000001::float8 - ts_rank('{1, 1, 1, 1}', c.words, weight.query)::float8)) - 0.5::float8 as tf offset 0
            ) as f
            where f.tf > 0.5::float8
            offset 0
        ) as t
        where coalesce(t.score, c.score) is not null
        order by text_score desc, c.id collate "C"
        limit {text_depth}
    ) as best
)

-- A part of the searches: find the tenant's chunks that have any of the question's words, and rank them by BM25. The number of rows read depends on the
-- question and not on the tenant's size. For each word, the statement reads the {listed} postings with the largest weight, and then ranks the best {reranked}
-- of their chunks. A word that nearly every chunk has selects few chunks, but counts in the ranking. If shared tenants are searched as well, the document
-- frequencies are those of all tenants together, so that the scores can be compared.
-- MATERIALIZED and the lateral references fix the order of the steps. `offset 0` prevents PostgreSQL from computing expressions twice. `collate "default"` is
-- needed, because with the postings' collation PostgreSQL could not use the primary key of chunk. The steps that read each hit look the values of its word up in
-- an array: with joins and window functions, a search took a third longer.
size as materialized (
    select s.tenant, coalesce({chunks}, (
        select count(*) from (select from {schema}.chunk where tenant = s.tenant limit {most_chunks}) as counted
    ))::float8 as chunks
    from s
),
word as materialized (
    select s.tenant, q.nth, row_number() over () as number, left(q.lexeme, 100) as lexeme, least({listed}::bigint, greatest({listed}0::bigint / q.words, 50::bigint))::integer as most,
           ('''' || replace(replace(q.lexeme, chr(92), repeat(chr(92), 2)), '''', '''''') || '''')::tsquery as query
    from s cross join lateral (
        select lexeme, row_number() over () as nth, count(*) over () as words
        from (select lexeme from unnest({schema}.lexemes({question})) order by positions[1], lexeme limit 64) as first_words
        offset 0
    ) as q
),
hit as materialized (
    select w.tenant, w.nth, w.number, p.chunk_id, p.impact, p.place
    from word as w cross join lateral {schema}.postings(w.tenant, w.lexeme, w.most) with ordinality as p (chunk_id, impact, place)
),
list as materialized (
    select w.tenant, w.nth, number, h.listed, h.listed >= w.most::bigint as is_cut
    from (select number, max(place) as listed from hit group by number) as h join word as w using (number)
),
-- Take a sample of chunks of each list. If the list of a word was cut, the share of these chunks that has the word shows how common the word is.
sample as materialized (
    select h.tenant, h.nth, c.words
    from (
        select hit.tenant, hit.nth, chunk_id from hit cross join (
            select array_agg(greatest(coalesce(list.listed, 0::bigint) / 24::bigint, 1::bigint) order by number) as step from word left join list using (number)
            offset 0
        ) as steps
        where place % steps.step[number] = 0::bigint and exists (select from list where is_cut)
        offset 0
    ) as h cross join lateral (
        select words from {schema}.chunk where tenant = h.tenant and id = h.chunk_id collate "default" limit 1
    ) as c
),
frequency as materialized (
    select l.nth, w.query, d.df
    from list as l join word as w using (tenant, nth) join size using (tenant) cross join lateral (
        select case
            when not l.is_cut then l.listed::float8
            else greatest(l.listed::float8, size.chunks * (
                select avg((sample.words @@ w.query)::integer)::float8 from sample where sample.tenant = l.tenant and sample.nth <> l.nth
            ))
        end as df
        offset 0
    ) as d
),
weight as materialized (
    select nth, query, ln(1::float8 + greatest(whole.chunks - sum(df), 0.5::float8) / (sum(df) + 0.5::float8)) as idf
    from frequency cross join (select sum(chunks) as chunks from size) as whole
    group by nth, query, whole.chunks
),
candidate as materialized (
    -- The score is rounded, so that equal chunks have equal scores: the order in which a sum adds its terms changes the last digits.
    select h.tenant, h.chunk_id, round(sum(weights.idf[h.nth] * h.impact::float8)) as score
    from hit as h cross join (
        select array_agg(coalesce(weight.idf, 0::float8) order by w.nth) as idf
        from (select distinct nth from word) as w left join weight using (nth)
        offset 0
    ) as weights
    group by h.tenant, h.chunk_id
    order by score desc, h.chunk_id, h.tenant
    {candidates_limit}
),
weighed as materialized (
    select r.tenant, c.id, c.words, c.length, r.score / 1000::float8 as score
    from (select tenant, chunk_id, score from candidate order by score desc, chunk_id, tenant offset 0) as r cross join lateral (
        select id, words, octet_length(text)::float8 as length
        from {schema}.chunk where tenant = r.tenant and id = r.chunk_id collate "default" {filter} limit 1
    ) as c
    limit {reranked}
){completing_text},
by_text as materialized (
    select tenant, id, text_score, row_number() over (order by text_score desc, id collate "C", tenant collate "C") as rank
    from (
        -- Chunks of the previous release have words of scripts without blanks only in their postings; these words keep the score of the postings.
        select c.tenant, c.id, coalesce(t.score, c.score) as text_score
        from {weighed} as c cross join (select greatest(avg(length), 1::float8) as length from {weighed}) as usual cross join lateral (
            -- If all weights are 1, ts_rank of one word is the sum of 1/i² for i up to tf, divided by π²/6. The expression below is the inverse, and
            -- rounding makes it exact. The length is that of the text in bytes, because PostgreSQL knows it without reading the text. It is divided by the
            -- mean length of the chunks that are ranked.
            select sum(weight.idf * f.tf * 2.2::float8 / (f.tf + 0.3::float8 + 0.9::float8 * c.length / usual.length) order by weight.nth) as score
            from weight cross join lateral (
                select round(1::float8 / (1.64493406685::float8 * (1.0000001::float8 - ts_rank('{1, 1, 1, 1}', c.words, weight.query)::float8)) - 0.5::float8) as tf
                offset 0
            ) as f
            where f.tf > 0.5::float8
            offset 0
        ) as t
        where coalesce(t.score, c.score) is not null
        order by text_score desc, c.id collate "C", c.tenant collate "C"
        limit {text_depth}
    ) as best
)

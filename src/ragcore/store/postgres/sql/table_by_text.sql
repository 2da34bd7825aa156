-- A part of the searches of an existing table: the tenant's chunks that have any of the question's words, best first by BM25 with k1 = 1.2 and b = 0.75.
-- Each chunk that has a word is read, so document frequencies are exact. If all weights are 1, ts_rank of one word is the sum of 1/i² for i up to the
-- number of its positions, divided by π²/6; the expression below is the inverse.
size as materialized (
    select coalesce({chunks}, (
        select count(*) from (select from {rows} where c.tenant = s.tenant limit {most_chunks}) as counted
    ))::float8 as chunks
    from s
),
word as materialized (
    select row_number() over () as nth, ('''' || replace(replace(lexeme, chr(92), repeat(chr(92), 2)), '''', '''''') || '''')::tsquery as query
    from (select lexeme from unnest(to_tsvector({language}, {question})) order by positions[1], lexeme limit 64) as first_words
),
asked as materialized (
    select string_agg(query::text, ' | ')::tsquery as words from word
),
matched as materialized (
    select c.row_table, c.row_place, s.tenant, c.id, c.length, array(
        select case when c.words @@ w.query then greatest(round(
            1::float8 / (1.64493406685::float8 * (1.0000001::float8 - ts_rank('{1, 1, 1, 1}', c.words, w.query)::float8)) - 0.5::float8
        ), 1::float8) else 0::float8 end
        from word as w order by w.nth
    ) as places
    from s cross join asked cross join lateral (
        select c.row_table, c.row_place, c.id, octet_length(c.text)::float8 as length, c.words
        from {rows}
        where c.tenant = s.tenant and c.words @@ asked.words {filter}
        limit {most_chunks}
    ) as c
),
weight as materialized (
    select p.nth, ln(1::float8 + greatest(size.chunks - count(*)::float8, 0.5::float8) / (count(*)::float8 + 0.5::float8)) as idf
    from matched cross join lateral unnest(places) with ordinality as p (tf, nth) cross join size
    where p.tf > 0.5::float8
    group by p.nth, size.chunks
),
by_text as materialized (
    select *, row_number() over (order by text_score desc, id collate "C") as rank
    from (
        select m.row_table, m.row_place, m.tenant, m.id, (
            select sum(w.idf * p.tf * 2.2::float8 / (p.tf + 0.3::float8 + 0.9::float8 * m.length / usual.length) order by p.nth)
            from unnest(m.places) with ordinality as p (tf, nth) join weight as w using (nth)
        ) as text_score
        from matched as m cross join (select greatest(avg(length), 1::float8) as length from matched) as usual
        order by text_score desc, id collate "C"
        limit {text_depth}
    ) as best
)

-- The nearest chunks of a tenant, in one statement and one round trip.
--
-- The lateral references force the order: settings, then the choice of plan, then the search; a plain join would not. Settings are local
-- to the statement's transaction, so nothing is left on the connection. `+ 0` keeps the exact branch from the HNSW index. The threshold
-- stands outside: inside, an index scan would walk on while few rows pass.
-- With a filter the rows that pass it are counted: few among many are beyond the reach of an index scan.
-- $1 tenant, $2 ef_search, $3 exact or null (count the tenant's rows), $4 most rows to search exactly, $5 vector, $6 threshold or null
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant,
           set_config('hnsw.ef_search', $2::text, true) as ef_search,
           set_config('hnsw.iterative_scan', 'relaxed_order', true) as iterative_scan
),
plan as materialized (
    select s.tenant, coalesce($3::boolean, few.exact) as exact
    from s cross join lateral (
        select case when $3::boolean is null
            then (select count(*) <= $4::integer from (
                select from ragcore.chunk where tenant = s.tenant {filter} limit $4::integer + 1
            ) as counted)
        end as exact
    ) as few
),
nearest as (
    select c.*
    from plan cross join lateral (
        select id, document_id, text, title, source, start_char, end_char, metadata, embedding operator({vector}.<=>) $5 as distance
        from ragcore.chunk
        where plan.exact and tenant = plan.tenant and embedding is not null {filter}
        order by (embedding operator({vector}.<=>) $5) + 0
        limit {top_k}
    ) as c
    union all
    select c.*
    from plan cross join lateral (
        select id, document_id, text, title, source, start_char, end_char, metadata, embedding operator({vector}.<=>) $5 as distance
        from ragcore.chunk
        where not plan.exact and {own} {filter}
        order by {indexed}
        limit {fetched}
    ) as c
)
select id, document_id, text, title, source, start_char, end_char, metadata, 1 - distance as score, null::float8 as text_score,
       (select exact from plan) as exact
from nearest
where distance <> 'NaN' and abs(distance) <> 'Infinity' and ($6::float8 is null or 1 - distance >= $6::float8)
order by distance, id
limit {top_k}

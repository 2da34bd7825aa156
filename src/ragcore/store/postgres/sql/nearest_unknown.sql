-- A part of the searches: find the nearest chunks of a tenant of unknown size. The statement first counts the tenant's rows, or those that match the filter, up
-- to {exact_rows}. If there are few, it compares all of them, because an index scan would miss a few rows among many others. If the walk through the index ends
-- before it has found {enough} chunks, the nearest ones may be missing, and the tenant's chunks are compared as well.
settings as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant, {search_shared} as shared,
           set_config('hnsw.ef_search', '{ef_search}', true) as ef_search,
           set_config('hnsw.iterative_scan', 'relaxed_order', true) as iterative_scan,
           set_config('hnsw.max_scan_tuples', '{scan_tuples}', true) as scan_tuples
),
s as materialized (
    select t.tenant, t.nth, counted.chunks <= {exact_rows}::bigint as small{part}
    from settings cross join lateral ({each_tenant}) as t cross join lateral (
        select count(*) as chunks from (
            select from {schema}.chunk where tenant = t.tenant {filter} limit {exact_rows}::bigint + 1::bigint
        ) as counted_rows
        offset 0
    ) as counted
),
by_index as materialized (
    select s.tenant, c.* from s cross join lateral ({walking}) as c
),
nearest as (
    select s.tenant, c.*, 'exact' as scan from s cross join lateral ({exactly}) as c
    union all
    select tenant, {columns}, distance, 'index' from by_index
    union all
    select s.tenant, c.*, 'completed' from s cross join lateral ({completing}) as c
)

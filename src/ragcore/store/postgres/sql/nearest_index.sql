-- The candidates of a tenant that is known to be large: through the index, and where that gives too few, exactly as well. Chunks of others may lie
-- nearer than all of the tenant's, and the walk through the index ends after {scan_tuples} of them.
s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant,
           set_config('hnsw.ef_search', '{ef_search}', true) as ef_search,
           set_config('hnsw.iterative_scan', 'relaxed_order', true) as iterative_scan,
           set_config('hnsw.max_scan_tuples', '{scan_tuples}', true) as scan_tuples
),
by_index as materialized (
    select c.* from s cross join lateral ({by_index}) as c
),
nearest as (
    select *, 'index' as scan from by_index
    union all
    select {columns}, distance, 'completed'
    from s cross join (select count(*) as found from by_index) as counted
    cross join lateral {schema}.nearest_exactly(case when counted.found < {depth}::bigint then s.tenant end, $2, {depth}, {completed_rows})
)

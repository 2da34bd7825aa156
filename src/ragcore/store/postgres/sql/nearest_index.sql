-- A part of the searches: find the nearest chunks of a tenant that is known to be large. The statement reads the first chunks of the index. If too few of them
-- belong to the tenant, because other tenants' chunks are nearer, it reads further chunks.
s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant,
           set_config('hnsw.ef_search', '{ef_search}', true) as ef_search{walk_settings}{part}
),
by_index as materialized (
    select s.tenant, c.* from s cross join lateral ({first_of_index}) as c
),
nearest as (
    select tenant, {columns}, distance, 'index' as scan from by_index
    union all
    select s.tenant, {columns}, distance, scan
    from s cross join (select count(*) as found from by_index) as counted
    cross join lateral {schema}.nearest_further(
        case when counted.found < {depth}::bigint then s.tenant end, $2, {depth}, {scan_tuples}, {completed_rows}
    )
)

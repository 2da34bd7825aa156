-- A part of the searches of an existing table: the tenant's nearest chunks. A tenant with few chunks is searched exactly; a larger one through the index,
-- and exactly if the walk ends before it has found {enough} chunks, because the nearest ones may then be missing. The table and the ctid identify a row: they
-- do not change during a statement, and need no index.
-- The lateral references and LIMIT fix the order of the steps: settings first, then the choice of plan, then the search.
settings as materialized (
    select {tenant} as tenant{settings}{index_settings}
),
s as materialized (
    select settings.tenant, {small} as small from settings
){candidates}

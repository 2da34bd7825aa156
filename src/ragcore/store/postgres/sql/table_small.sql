-- A part of the searches of an existing table: whether the tenant has few rows or, with a filter, few rows that match it.
(
    select count(*) <= {exact_rows}::bigint
    from (select from {rows} where c.tenant = settings.tenant {filter} limit {exact_rows}::bigint + 1::bigint) as counted
)

-- A part of the searches of an existing table: a limited number of the tenant's chunks, if the walk through the index ended before it had found enough.
(
    select c.* from {rows}
    where not s.small and coalesce((select max(found) from by_index), 0::bigint) < {enough}::bigint
          and c.tenant = s.tenant and c.embedding is not null {filter}
    limit {completed_rows}
) as c

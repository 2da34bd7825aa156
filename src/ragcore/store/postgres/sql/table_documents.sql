-- Ids of a tenant's documents in an existing table, all or those that are named. $1 tenant, $2 ids or null
with s as materialized (
    select {tenant} as tenant{settings}
)
select c.document_id as id from s cross join lateral (
    select distinct c.document_id from {rows}
    where c.tenant = s.tenant and c.document_id is not null and ($2::text[] is null or c.document_id = any($2::text[]))
    offset 0
) as c

-- Count a tenant's documents and chunks in an existing table. $1 tenant
with s as materialized (
    select {tenant} as tenant{settings}
)
select c.* from s cross join lateral (
    select count(distinct c.document_id) as documents, count(*) as chunks, count(*) filter (where c.embedding is null) as not_embedded
    from {rows} where c.tenant = s.tenant offset 0
) as c

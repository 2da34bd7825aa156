-- Return ids and content hashes of a tenant's documents in an existing table. $1 tenant, $2 ids, or null for all
with s as materialized (
    select {tenant} as tenant{settings}
)
select c.* from s cross join lateral (
    select c.document_id as id, case when min(c.content_hash) = max(c.content_hash) and count(c.content_hash) = count(*) then min(c.content_hash) else '' end as hash
    from {rows}
    where c.tenant = s.tenant and c.document_id is not null and ($2::text[] is null or c.document_id = any($2::text[]))
    group by c.document_id
    offset 0
) as c

-- Return random chunks of all tenants. $1 largest number
select of_tenant as tenant, chunk_id as id from {schema}.sample_chunks($1::integer)

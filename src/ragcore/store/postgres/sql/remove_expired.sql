-- Remove expired documents of all tenants. $1 largest number of documents
select of_tenant as tenant, documents from {schema}.remove_expired($1::integer)

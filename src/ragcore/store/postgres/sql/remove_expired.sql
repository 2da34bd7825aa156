-- What has expired, of all tenants. $1 how many documents at most
select of_tenant as tenant, documents from {schema}.remove_expired($1::integer)

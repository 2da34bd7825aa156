-- Return the tenants whose documents other tenants may search.
select tenant from {schema}.shared_tenant order by tenant

-- Tenants that have used nothing for days. $1 how many at most
select {schema}.remove_old_quotas($1::integer) as removed

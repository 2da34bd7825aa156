-- Remove the quotas of tenants that have used nothing for days. $1 largest number
select {schema}.remove_old_quotas($1::integer) as removed

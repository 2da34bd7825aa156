-- Tenants that have used nothing for days.
select {schema}.remove_old_quotas()

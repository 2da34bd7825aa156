-- Remove all stored vectors of a tenant's questions. $1 tenant
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
), removed as (
    delete from {schema}.cached_vector using s where cached_vector.tenant = s.tenant returning 1
)
select count(*) as removed from removed

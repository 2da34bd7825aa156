-- Return all tenants of a collection. The owner runs this.
with s as materialized (
    select set_config('ragcore.counting', 'on', true) as counting
)
select d.tenant from s cross join lateral (select distinct tenant from {schema}.document where s.counting is not null offset 0) as d

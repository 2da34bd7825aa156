-- The keys of the tenant's rows among some rows of the parent. $1 tenant, $2 keys
select (p.{parent_key})::text as id from {parent} as p where p.{parent_key} = any($2::text[]::{parent_key_type}[]) and {parent_tenant} = $1::{tenant_type}

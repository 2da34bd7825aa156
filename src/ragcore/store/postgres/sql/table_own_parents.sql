-- Return those of the keys whose rows in the parent belong to the tenant. $1 tenant, $2 keys
select (p.{parent_key})::text as id from {parent} as p where p.{parent_key} = any($2::text[]::{parent_key_type}[]) and {parent_tenant} = $1::{tenant_type}

-- Delete rows of the parent that belong to the tenant. $1 tenant, $2 keys
delete from {parent} as p where p.{parent_key} = any($2::text[]::{parent_key_type}[]) and {parent_tenant} = $1::{tenant_type}
returning (p.{parent_key})::text as id

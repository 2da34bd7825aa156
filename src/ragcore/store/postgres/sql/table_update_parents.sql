-- Update rows of the parent that belong to the tenant. $1 tenant, $2 keys, $3 titles, $4 sources, $5 metadata, $6 content hashes
update {parent} as p set ({parent_names}) = row({parent_values})
from unnest($2::text[], $3::text[], $4::text[], $5::jsonb[], $6::text[]) as given (document_id, title, source, metadata, content_hash)
where p.{parent_key} = given.document_id::{parent_key_type} and {parent_tenant} = $1::{tenant_type}

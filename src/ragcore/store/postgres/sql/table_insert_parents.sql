-- Insert rows of the parent. $1 tenant, $2 keys, $3 titles, $4 sources, $5 metadata, $6 content hashes
insert into {parent} ({parent_names})
select {parent_values} from unnest($2::text[], $3::text[], $4::text[], $5::jsonb[], $6::text[]) as given (document_id, title, source, metadata, content_hash)
where $1::{tenant_type} is not null

-- Insert a slice of chunks as columns. $1 tenant, $2 ids, $3 document ids, $4 positions, $5 texts, $6 titles, $7 sources, $8 metadata, $9 vectors,
-- $10 content hashes
insert into {chunks} ({chunk_names})
select {chunk_values}
from unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::jsonb[], $9::{vector}.vector[], $10::text[])
    as given (id, document_id, position, text, title, source, metadata, embedding, content_hash)
where $1::{tenant_type} is not null

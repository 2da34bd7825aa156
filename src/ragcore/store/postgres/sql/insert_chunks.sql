-- Insert a slice of chunks as columns. $1 tenant, $2 ids, $3 document ids, $4 positions, $5 texts, $6 titles, $7 sources, $8 starts, $9 ends, $10 metadata,
-- $11 vectors, $12 times at which their documents expire
insert into {schema}.chunk (tenant, id, document_id, position, text, title, source, start_char, end_char, metadata, embedding, expires_at)
select $1, given.*
from unnest(
    $2::text[], $3::text[], $4::integer[], $5::text[], $6::text[], $7::text[], $8::integer[], $9::integer[], $10::jsonb[], $11::{vector}.vector[],
    $12::timestamptz[]
) as given

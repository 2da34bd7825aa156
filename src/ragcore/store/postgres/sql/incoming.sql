-- Where chunks are copied to first: COPY into a table with row-level security is refused.
create temporary table ragcore_incoming (
    id text, document_id text, position integer, text text, title text, source text, start_char integer, end_char integer,
    metadata jsonb, embedding {vector}.vector
) on commit drop

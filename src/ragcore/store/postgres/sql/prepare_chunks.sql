-- Prepare some chunks of a tenant for text search, if they are not prepared yet. FOR SHARE locks the chunks: the postings of a chunk that is deleted meanwhile
-- would stay.
-- $1 tenant, $2 ids
with given as materialized (
    select tenant, id, {schema}.words_of(words, title, text) as words from {schema}.chunk as chunk
    where tenant = $1 and id = any($2::text[])
        and not exists (select from {schema}.posting where posting.tenant = $1 and posting.chunk_id = chunk.id)
    for share
)
select {schema}.add_postings(array_agg(tenant), array_agg(id), array_agg(words)) from given

-- Creates the index for approximate search in large tenants. pgvector indexes up to 2,000 dimensions in full precision.
do $$
begin
    if {dimension} <= 2000 then
        create index chunk_embedding on {schema}.chunk using hnsw (embedding {vector}.vector_cosine_ops);
    end if;
end
$$;

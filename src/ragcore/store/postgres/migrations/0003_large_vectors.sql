-- Indexes vectors of 2,001 to 4,000 dimensions in half precision; more dimensions are beyond pgvector's limit. If the table already has rows, the migration
-- creates no index, because this may take long and would block all writers. `ragcore doctor` prints the statement that creates it.
do $$
begin
    if {dimension} between 2001 and 4000 and pg_relation_size('{schema}.chunk'::regclass) = 0 then
        create index chunk_embedding on {schema}.chunk
            using hnsw ((embedding::{vector}.halfvec({dimension})) {vector}.halfvec_cosine_ops);
    end if;
end
$$;

-- Returns whether a row belongs to the tenant, for searches through the index. Large vectors are stored in a TOAST table. The planner does not count the pages
-- of that table, so it would prefer a scan of all rows to the index. The function's cost prevents that. The function is written in plpgsql, because an SQL
-- function is inlined and loses its cost.
create function {schema}.is_of(tenant text, wanted text) returns boolean
    language plpgsql immutable cost 10000
    as $$ begin return tenant = wanted; end $$;

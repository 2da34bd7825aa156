-- Vectors of 2,001 to 4,000 dimensions are indexed in half precision, pgvector's limit. If the table has rows already, create the index by hand, as
-- `ragcore doctor` says: it may take long, and would block all writers here.
do $$
begin
    if {dimension} between 2001 and 4000 and pg_relation_size('{schema}.chunk'::regclass) = 0 then
        create index chunk_embedding on {schema}.chunk
            using hnsw ((embedding::{vector}.halfvec({dimension})) {vector}.halfvec_cosine_ops);
    end if;
end
$$;

-- Whether a row is the tenant's, for searches through the index. Large vectors are stored in a TOAST table. The planner does not count its pages, so a scan
-- of all rows looks cheap to it. The function's cost prevents that. It is written in plpgsql, since an SQL function is inlined and loses its cost.
create function {schema}.is_of(tenant text, wanted text) returns boolean
    language plpgsql immutable cost 10000
    as $$ begin return tenant = wanted; end $$;

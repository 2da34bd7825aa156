-- Vectors of 2,001 to 4,000 dimensions are indexed in half precision, which pgvector takes twice as many of. Of a table that has rows already the index is
-- made by hand, as `ragcore doctor` says: it may take long, and would hold up all who write.
do $$
begin
    if {dimension} between 2001 and 4000 and pg_relation_size('{schema}.chunk'::regclass) = 0 then
        create index chunk_embedding on {schema}.chunk
            using hnsw ((embedding::{vector}.halfvec({dimension})) {vector}.halfvec_cosine_ops);
    end if;
end
$$;

-- Whether a row is the tenant's, for searches through the index. A row with a large vector lies in a TOAST table, whose pages the planner does not
-- count: a scan of all rows looks cheap to it. The cost keeps it from that; plpgsql, since an SQL function is inlined and its
-- cost forgotten.
create function {schema}.is_of(tenant text, wanted text) returns boolean
    language plpgsql immutable cost 10000
    as $$ begin return tenant = wanted; end $$;

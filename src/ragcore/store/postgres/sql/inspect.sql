-- What start and doctor look at: the role, the schema, what it was made for.
select current_user as role,
       current_database() as database,
       current_setting('server_version') as server_version,
       (select rolsuper from pg_roles where rolname = current_user) as superuser,
       (select rolbypassrls from pg_roles where rolname = current_user) as bypasses_rls,
       (select extversion from pg_extension where extname = 'vector') as pgvector,
       (select nspname from pg_extension join pg_namespace on pg_namespace.oid = extnamespace where extname = 'vector') as vector_schema,
       to_regclass('ragcore.chunk') is not null as has_schema,
       (select pg_has_role(current_user, relowner, 'usage') from pg_class where oid = to_regclass('ragcore.chunk')) as owns_tables,
       (
           select bool_and(relrowsecurity and relforcerowsecurity)
           from pg_class where oid in (to_regclass('ragcore.chunk'), to_regclass('ragcore.document'))
       ) as forces_rls,
       (select atttypmod from pg_attribute where attrelid = to_regclass('ragcore.chunk') and attname = 'embedding') as dimension,
       to_regclass('ragcore.chunk_embedding') is not null as has_index,
       (
           select md5(string_agg(format('%s.%s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod)), ',' order by c.relname, a.attnum))
           from pg_attribute as a join pg_class as c on c.oid = a.attrelid join pg_namespace as n on n.oid = c.relnamespace
           where n.nspname = 'ragcore' and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped
       ) as fingerprint,
       (select reltuples::bigint from pg_class where oid = to_regclass('ragcore.chunk')) as about_chunks

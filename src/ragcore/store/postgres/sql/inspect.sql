-- Return the data of an inspection: the role, the connection, the schema, and the isolation of tenants. $1 the collection's schema
with own as (
    select c.oid, c.relname, c.relrowsecurity and c.relforcerowsecurity as forced, c.relowner
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = $1 and c.relkind in ('r', 'p') and c.relname in ('document', 'chunk', 'posting', 'quota', 'cached_vector', 'origin')
),
-- The partitions of these tables. Only the owner may write to them, since the triggers belong to the whole tables.
part as (
    select c.oid, c.relname, c.relrowsecurity and c.relforcerowsecurity as forced, c.relowner, own.relname as whole
    from own join pg_inherits on inhparent = own.oid join pg_class as c on c.oid = inhrelid
),
every as (
    select oid, relname, forced, relowner from own union all select oid, relname, forced, relowner from part
)
select current_user as role,
       current_database() as database,
       current_setting('server_version') as server_version,
       current_setting('row_security') = 'on' as row_security,
       pg_is_in_recovery() as in_recovery,
       (select bool_or(rolsuper) from pg_roles where rolname in (current_user, session_user)) as superuser,
       (select bool_or(rolbypassrls) from pg_roles where rolname in (current_user, session_user)) as bypasses_rls,
       array(
           -- These are the roles that this role may become, directly or by its admin option. Before PostgreSQL 16, any member of a role may become that role.
           with recursive reachable as (
               select oid from pg_roles where rolname in (current_user, session_user)
               union
               select member.roleid from reachable join pg_auth_members as member on member.member = reachable.oid
               where coalesce((to_jsonb(member) ->> 'set_option')::boolean, true) or member.admin_option
           )
           select rolname::text from pg_roles join reachable using (oid)
           where (rolsuper or rolbypassrls or rolname in ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files'))
               and rolname not in (current_user, session_user)
           order by 1
       ) as may_become,
       (select extversion from pg_extension where extname = 'vector') as pgvector,
       (select nspname from pg_extension join pg_namespace on pg_namespace.oid = extnamespace where extname = 'vector') as vector_schema,
       (
           select has_schema_privilege(extnamespace, 'usage') from pg_extension where extname = 'vector'
       ) as may_use_vector,
       exists (select from own where relname = 'chunk') as has_schema,
       has_schema_privilege(current_user, (select oid from pg_namespace where nspname = $1), 'usage') as may_use_schema,
       array(
           select relname || ' ' || wanted from own cross join unnest(array['select', 'insert', 'update', 'delete']) as wanted
           where not has_table_privilege(own.oid, wanted) and (wanted = 'select' or relname <> 'posting')
           union all
           select relname || ' select' from part where whole = 'chunk' and not has_table_privilege(part.oid, 'select')
           union all
           select relname || ' ' || wanted from pg_class cross join unnest(array['select', 'insert', 'update']) as wanted
           where relname = 'rollout' and relkind = 'r' and relnamespace = (select oid from pg_namespace where nspname = $1)
               and not has_table_privilege(pg_class.oid, wanted)
           order by 1
       ) as missing_rights,
       -- `migrate` revokes these rights: with them, the role could bypass the policies, or empty the tables of all tenants.
       array(
           select relname || ' ' || excess from every cross join unnest(array['truncate', 'references', 'trigger']) as excess
           where has_table_privilege(every.oid, excess) and not pg_has_role(current_user, relowner, 'usage')
           union all
           select relname || ' ' || excess from part cross join unnest(array['insert', 'update', 'delete']) as excess
           where has_table_privilege(part.oid, excess) and not pg_has_role(current_user, relowner, 'usage')
           union all
           select relname || ' ' || excess from own cross join unnest(array['insert', 'update', 'delete']) as excess
           where relname = 'posting' and has_table_privilege(own.oid, excess) and not pg_has_role(current_user, relowner, 'usage')
           union all
           -- With these rights, the role could let any tenant read the documents of another one.
           select relname || ' ' || excess
           from pg_class cross join unnest(array['insert', 'update', 'delete']) as excess
           where relname = 'shared_tenant' and relnamespace = (select oid from pg_namespace where nspname = $1)
               and has_table_privilege(pg_class.oid, excess) and not pg_has_role(current_user, relowner, 'usage')
           union all
           select relname || ' ' || excess
           from pg_class cross join unnest(array['delete', 'truncate', 'references', 'trigger']) as excess
           where relname = 'rollout' and relkind = 'r' and relnamespace = (select oid from pg_namespace where nspname = $1)
               and has_table_privilege(pg_class.oid, excess) and not pg_has_role(current_user, relowner, 'usage')
           union all
           select 'schema create' where has_schema_privilege(current_user, (select oid from pg_namespace where nspname = $1), 'create')
               and not exists (select from own where pg_has_role(current_user, relowner, 'usage'))
           order by 1
       ) as excess_rights,
       array(
           select tgname::text from pg_trigger join own on own.oid = tgrelid where tgenabled = 'D' and not tgisinternal order by 1
       ) as disabled_triggers,
       (select pg_has_role(current_user, relowner, '{set_role}') from own where relname = 'chunk') as owns_tables,
       (select bool_and(forced) from every) as forces_rls,
       array(
           select every.relname || ': ' || polname || ' ' || polcmd::text || ' ' || polpermissive::text
                  || ' ' || coalesce(pg_get_expr(polqual, polrelid), '-') || ' ' || coalesce(pg_get_expr(polwithcheck, polrelid), '-')
                  || ' ' || (
                      polroles = array[every.relowner] or (polname in ('own_rows', 'not_expired', 'shared_rows') and polroles = array[0::oid])
                      or not exists (select from unnest(polroles) as r (of) where r.of = 0 or pg_has_role(current_user, r.of, 'member'))
                  )::text
           from every join pg_policy on polrelid = every.oid
           order by 1
       ) as policies,
       (
           select atttypmod from pg_attribute join own on own.oid = attrelid
           where own.relname = 'chunk' and attname = 'embedding'
       ) as dimension,
       (
           select jsonb_agg(jsonb_build_object(
               'table', every.relname, 'name', i.relname, 'valid', x.indisvalid, 'operators', oc.opcname, 'bytes', pg_relation_size(i.oid)
           ) order by every.relname, i.relname)
           from pg_index as x join every on every.oid = x.indrelid join pg_class as i on i.oid = x.indexrelid
           join pg_am as am on am.oid = i.relam join pg_opclass as oc on oc.oid = x.indclass[0]
           where am.amname = 'hnsw'
       ) as vector_indexes,
       (select pg_size_bytes(current_setting('maintenance_work_mem'))) as maintenance_work_mem,
       (select setting::bigint * 8192 from pg_settings where name = 'shared_buffers') as shared_buffers,
       (
           select md5(string_agg(format('%s.%s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod)), ',' order by c.relname, a.attnum))
           from pg_attribute as a join pg_class as c on c.oid = a.attrelid join pg_namespace as n on n.oid = c.relnamespace
           where n.nspname = $1 and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
       ) as fingerprint,
       (
           -- The estimate of a partitioned table is the sum of those of its partitions. -1: not analyzed.
           select case when bool_or(reltuples < 0) then -1 else sum(reltuples)::bigint end
           from pg_class join (
               select oid, relname as whole from own where not exists (select from part where part.whole = own.relname)
               union all
               select oid, whole from part
           ) as counted using (oid)
           where counted.whole = 'chunk'
       ) as about_chunks,
       array(
           select nspname::text from pg_namespace as n
           where exists (select from pg_class where relnamespace = n.oid and relname = 'chunk' and relkind in ('r', 'p'))
             and exists (select from pg_class where relnamespace = n.oid and relname = 'setting' and relkind = 'r')
             and exists (select from pg_class where relnamespace = n.oid and relname = 'migration' and relkind = 'r')
           order by 1
       ) as collections

-- Return the facts about an existing table and its parent with which a mapping is compared. $1 schema and $2 name of the table, $3 schema and $4 name of the
-- parent
with wanted as (
    select * from (values ('chunks', $1::text, $2::text), ('parent', $3::text, $4::text)) as w (side, schema, name)
),
relation as (
    select w.side, c.oid, c.relkind::text as kind, c.relrowsecurity as has_rls, c.reltuples::bigint as about_rows
    from wanted as w join pg_namespace as n on n.nspname = w.schema join pg_class as c on c.relnamespace = n.oid and c.relname = w.name
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
)
select current_user::text as role, current_database()::text as database, current_setting('server_version') as server_version,
       pg_is_in_recovery() as in_recovery,
       (select rolsuper or rolbypassrls from pg_roles where rolname = current_user) as bypasses_rls,
       (select to_jsonb(array_agg(jsonb_build_object(
           'side', r.side, 'kind', r.kind, 'has_rls', r.has_rls, 'rls_applies', row_security_active(r.oid), 'about_rows', r.about_rows,
           'open_policy', (
               select min(polname) from pg_policy
               where polrelid = r.oid and polpermissive and polcmd in ('r', '*') and coalesce(pg_get_expr(polqual, polrelid), 'true') = 'true'
                   and exists (select from unnest(polroles) as of (role) where of.role = 0 or pg_has_role(of.role, 'usage'))
                   and not exists (
                       select from pg_policy as other
                       where other.polrelid = r.oid and not other.polpermissive and other.polcmd in ('r', '*')
                           and exists (select from unnest(other.polroles) as of (role) where of.role = 0 or pg_has_role(of.role, 'usage'))
                   )
           ),
           'foreign_part', (
               with recursive part as (
                   select inhrelid as oid from pg_inherits where inhparent = r.oid
                   union
                   select i.inhrelid from pg_inherits as i join part on i.inhparent = part.oid
               )
               select min(c.relname) from part join pg_class as c using (oid) where c.relkind = 'f'
           ),
           'may_delete', has_table_privilege(r.oid, 'delete'), 'may_use_schema', has_schema_privilege((select relnamespace from pg_class where oid = r.oid), 'usage'),
           'columns', (
               select coalesce(jsonb_agg(jsonb_build_object(
                   'name', a.attname, 'type', t.typname, 'type_schema', tn.nspname, 'modifier', a.atttypmod,
                   'nullable', not a.attnotnull, 'may_insert', has_column_privilege(r.oid, a.attnum, 'insert'),
                   'may_update', has_column_privilege(r.oid, a.attnum, 'update'),
                   'generated', a.attgenerated <> '', 'has_default', a.atthasdef or a.attidentity <> '',
                   'numbered', a.attidentity <> '' or coalesce((
                       select pg_get_expr(d.adbin, d.adrelid) like 'nextval(%' from pg_attrdef as d where d.adrelid = a.attrelid and d.adnum = a.attnum
                   ), false),
                   'may_select', has_column_privilege(r.oid, a.attnum, 'select'),
                   'deterministic', coalesce((select collisdeterministic from pg_collation where oid = a.attcollation), true),
                   'unique', exists (
                       select from pg_index as i
                       where i.indrelid = r.oid and i.indisunique and i.indisvalid and i.indnkeyatts = 1 and i.indkey[0] = a.attnum and i.indpred is null
                   )
               ) order by a.attnum), '[]')
               from pg_attribute as a join pg_type as t on t.oid = a.atttypid join pg_namespace as tn on tn.oid = t.typnamespace
               where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
           ),
           'indexes', (
               select coalesce(jsonb_agg(jsonb_build_object(
                   'name', ic.relname, 'method', am.amname, 'valid', i.indisvalid, 'operators', oc.opcname,
                   'column', (select attname from pg_attribute where attrelid = r.oid and attnum = i.indkey[0] and attnum > 0),
                   'expression', pg_get_indexdef(i.indexrelid, 1, true),
                   'predicate', pg_get_expr(i.indpred, i.indrelid, true)
               ) order by ic.relname), '[]')
               from pg_index as i join pg_class as ic on ic.oid = i.indexrelid join pg_am as am on am.oid = ic.relam
               join pg_opclass as oc on oc.oid = i.indclass[0]
               where i.indrelid = r.oid
           ),
           'foreign_keys', (
               select coalesce(jsonb_agg(jsonb_build_object(
                   'columns', (select jsonb_agg(attname) from pg_attribute where attrelid = k.conrelid and attnum = any(k.conkey)),
                   'schema', (select n.nspname from pg_class as f join pg_namespace as n on n.oid = f.relnamespace where f.oid = k.confrelid),
                   'table', (select relname from pg_class where oid = k.confrelid),
                   'other', (select jsonb_agg(attname) from pg_attribute where attrelid = k.confrelid and attnum = any(k.confkey))
               )), '[]')
               from pg_constraint as k where k.conrelid = r.oid and k.contype = 'f'
           )
       ))) from relation as r) as relations

-- The contraction: a statement without a tenant raises an error. Inside the CASE on purpose: written as `tenant = f()`, it would be raised while a
-- statement is planned. The statements of the release before rely on a plan that sets the tenant first, which PostgreSQL does not promise.
alter policy own_rows on {schema}.document using (
    case when tenant = current_setting('ragcore.tenant', true) then true
         when coalesce(current_setting('ragcore.tenant', true), '') <> '' then false
         else {schema}.tenant_is_missing() end
);
alter policy own_rows on {schema}.chunk using (
    case when tenant = current_setting('ragcore.tenant', true) then true
         when coalesce(current_setting('ragcore.tenant', true), '') <> '' then false
         else {schema}.tenant_is_missing() end
);
update {schema}.setting set value = 'true' where name = 'contracted'

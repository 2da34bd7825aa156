-- The contraction: from now on, a statement without a tenant raises an error. The call is inside the CASE: with `tenant = f()`, the planner would raise
-- the error. Statements of the previous release would fail, since they rely on a plan that sets the tenant first, which PostgreSQL does not guarantee.
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

-- Contract the schema: from now on, a statement without a tenant raises an error. The call of the function is inside the CASE, because with `tenant = f()` the
-- planner itself would call it and raise the error. Some statements of the previous release fail now: they need a plan that sets the tenant first, and
-- PostgreSQL does not guarantee such a plan.
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

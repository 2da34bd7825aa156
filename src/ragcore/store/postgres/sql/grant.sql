-- What the application's role needs, and no more.
grant usage on schema {schema} to {role};
grant select, insert, update, delete on {schema}.document, {schema}.chunk to {role};
grant select on {schema}.setting, {schema}.migration to {role};
grant select on {schema}.posting to {role};
grant execute on function {schema}.count_all(), {schema}.is_of(text, text), {schema}.lexemes(text), {schema}.tenant_is_missing(),
    {schema}.postings(text, text, integer),
    {schema}.nearest_exactly(text, {vector}.vector, integer, integer) to {role}

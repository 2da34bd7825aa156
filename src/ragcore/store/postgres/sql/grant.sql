-- What the application's role needs, and no more: with a trigger of its own on a table it would act as whoever writes there next.
grant usage on schema {schema} to {role};
grant select, insert, update, delete on {schema}.document, {schema}.chunk, {schema}.quota to {role};
grant select on {schema}.setting, {schema}.migration, {schema}.posting to {role};
revoke truncate, references, trigger on all tables in schema {schema} from {role};
revoke insert, update, delete on {schema}.setting, {schema}.migration, {schema}.posting from {role};
revoke create on schema {schema} from {role};
revoke all on function {schema}.add_postings(text[], text[], tsvector[]), {schema}.remove_postings(text[], text[]), {schema}.keep_postings()
    from {role};
-- As their migrations do: a database that was restored without its rights lets everybody call them.
revoke all on function {schema}.count_all(), {schema}.record_embed_text(text), {schema}.remove_expired(integer), {schema}.remove_old_quotas(integer),
    {schema}.add_postings(text[], text[], tsvector[]), {schema}.remove_postings(text[], text[]), {schema}.keep_postings(),
    {schema}.postings(text, text, integer)
    from public;
grant execute on function {schema}.count_all(), {schema}.is_of(text, text), {schema}.lexemes(text), {schema}.tenant_is_missing(),
    {schema}.postings(text, text, integer), {schema}.record_embed_text(text), {schema}.remove_expired(integer),
    {schema}.remove_old_quotas(integer),
    {schema}.count_calls(text, text, float8, float8, text[], text, float8, float8, float8, integer, float8),
    {schema}.nearest_further(text, {vector}.vector, integer, integer, integer) to {role}

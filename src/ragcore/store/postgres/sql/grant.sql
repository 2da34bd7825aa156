-- Grant the rights that the application's role needs, and revoke others. For example, with its own trigger on a table, the role could run code with the rights
-- of the next writer.
grant usage on schema {schema} to {role};
grant select, insert, update, delete on {schema}.document, {schema}.chunk, {schema}.quota, {schema}.cached_vector, {schema}.origin to {role};
grant select, insert, update on {schema}.rollout to {role};
grant select on {schema}.setting, {schema}.migration, {schema}.posting, {schema}.shared_tenant to {role};
revoke truncate, references, trigger on all tables in schema {schema} from {role};
revoke delete on {schema}.rollout from {role};
revoke insert, update, delete on {schema}.setting, {schema}.migration, {schema}.posting, {schema}.shared_tenant from {role};
revoke create on schema {schema} from {role};
revoke all on function {schema}.add_postings(text[], text[], tsvector[]), {schema}.remove_postings(text[], text[]), {schema}.keep_postings()
    from {role};
-- The migrations revoke these rights as well. This repeats it for a database that was restored without its rights, in which all roles could call the functions.
revoke all on function {schema}.count_all(), {schema}.record_embed_text(text), {schema}.remove_expired(integer), {schema}.remove_old_quotas(integer),
    {schema}.trim_cached_vectors(bigint, integer), {schema}.add_postings(text[], text[], tsvector[]), {schema}.remove_postings(text[], text[]), {schema}.keep_postings(),
    {schema}.postings(text, text, integer), {schema}.search_shared(text[]), {schema}.sample_chunks(integer)
    from public;
grant execute on function {schema}.count_all(), {schema}.is_of(text, text), {schema}.lexemes(text), {schema}.tenant_is_missing(),
    {schema}.postings(text, text, integer), {schema}.record_embed_text(text), {schema}.remove_expired(integer),
    {schema}.remove_old_quotas(integer), {schema}.trim_cached_vectors(bigint, integer), {schema}.search_shared(text[]), {schema}.sample_chunks(integer),
    {schema}.count_calls(text, text, float8, float8, text[], text, float8, float8, float8, integer, float8),
    {schema}.nearest_further(text, {vector}.vector, integer, integer, integer) to {role}

-- Documents, new or in place of those with their ids; always in one order, or two writers deadlock.
-- $1 tenant, $2 ids, $3 content hashes, $4 models
insert into ragcore.document (tenant, id, content_hash, model)
select $1, given.id, given.content_hash, given.model
from unnest($2::text[], $3::text[], $4::text[]) as given (id, content_hash, model)
order by given.id
on conflict (tenant, id) do update set content_hash = excluded.content_hash, model = excluded.model, updated_at = now()

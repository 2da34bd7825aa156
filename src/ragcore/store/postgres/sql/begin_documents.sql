-- Documents that are about to be written, new or in place of those with their ids; always in one order, or two writers deadlock. Their content hash
-- comes last. $1 tenant, $2 ids, $3 models
insert into {schema}.document (tenant, id, content_hash, model)
select $1, given.id, '', given.model
from unnest($2::text[], $3::text[]) as given (id, model)
order by given.id
on conflict (tenant, id) do update set content_hash = '', model = excluded.model, updated_at = now()

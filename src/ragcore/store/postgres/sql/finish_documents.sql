-- Mark documents as complete, after all their chunks are written. $1 tenant, $2 ids, $3 content hashes
update {schema}.document as document set content_hash = given.content_hash
from unnest($2::text[], $3::text[]) as given (id, content_hash)
where document.tenant = $1 and document.id = given.id

-- Store vectors of questions. $1 tenant, $2 keys, $3 vectors, $4 seconds until they expire
with s as materialized (
    select set_config('ragcore.tenant', $1::text, true) as tenant
)
insert into {schema}.cached_vector (tenant, key, vector, expires_at)
select s.tenant, v.key, v.vector, now() + make_interval(secs => $4::float8)
-- Sorted, so that two processes lock the same rows in the same order.
from s cross join (select key, vector from unnest($2::bytea[], $3::bytea[]) as given (key, vector) order by key) as v
on conflict (tenant, key) do update set vector = excluded.vector, expires_at = excluded.expires_at

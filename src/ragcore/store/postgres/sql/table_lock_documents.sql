-- Lock documents of an existing table until the end of the transaction, so that two writers of ragcore don't write the same document at once. The order of
-- the locks is always the same, because two writers could deadlock otherwise.
-- $1 table and tenant, $2 ids
select pg_advisory_xact_lock(number)
from (select distinct hashtextextended($1::text || id, 0) as number from unnest($2::text[]) as given (id) order by 1 offset 0) as locks

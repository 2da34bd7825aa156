-- Return the nearest chunks of a tenant, in one statement and one round trip. The client sorts them, removes duplicates and applies the threshold. So the
-- client also gets the best score, and a search takes a tenth less time.
--
-- The lateral references fix the order: settings, then the choice of plan, then the search. A plain join would not fix it. The planner moves nothing across
-- MATERIALIZED, LIMIT and `offset 0`. Settings are local to the statement's transaction, so they don't stay on the connection.
-- $1 tenant, $2 vector
with {nearest}
select {passage_columns}, distance, scan, {shared} as shared{and_embedding} from nearest

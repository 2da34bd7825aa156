-- The nearest chunks of a tenant, in one statement and one round trip. The client sorts them, removes duplicates and applies the threshold. So it also
-- gets the best score, and a search takes a tenth less time.
--
-- The lateral references fix the order: settings, then the choice of plan, then the search. A plain join would not. MATERIALIZED, LIMIT and `offset 0` are
-- fences: the planner moves nothing across them. Settings are local to the statement's transaction, so they don't stay on the connection.
-- $1 tenant, $2 vector
with {nearest}
select {passage_columns}, distance, scan, {shared} as shared{and_embedding} from nearest

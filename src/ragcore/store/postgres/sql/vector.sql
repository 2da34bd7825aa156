-- The nearest chunks of a tenant, in one statement and one round trip. The client sorts them, removes what was found twice, and applies the
-- threshold: so it learns the best score, and a search takes a tenth less time.
--
-- The lateral references fix the order: settings, then the choice of plan, then the search; a plain join would not. MATERIALIZED, LIMIT and
-- `offset 0` are fences that the planner doesn't move anything across. Settings are local to the statement's transaction, so nothing is left on the
-- connection.
-- $1 tenant, $2 vector
with {nearest}
select id, document_id, text, title, source, start_char, end_char, metadata, distance, scan from nearest

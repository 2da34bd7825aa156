-- Use only PostgreSQL's own functions and operators for the rest of the transaction.
set local search_path = pg_catalog, pg_temp

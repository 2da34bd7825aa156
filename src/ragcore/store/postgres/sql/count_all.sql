-- Count all documents and chunks of the store, for roles that may execute the function.
select documents, chunks, not_embedded from {schema}.count_all()

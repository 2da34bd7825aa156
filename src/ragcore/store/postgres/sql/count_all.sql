-- What the whole store has, for whoever may execute the function.
select documents, chunks, not_embedded from {schema}.count_all()

-- Remove expired vectors of questions, and further ones if there are too many. $1 largest number of vectors, or null, $2 largest number to remove
select {schema}.trim_cached_vectors($1::bigint, $2::integer) as removed

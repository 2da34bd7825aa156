-- Remove expired vectors of questions, and further ones while there are too many. $1 largest number, or null, $2 most at once
select {schema}.trim_cached_vectors($1::bigint, $2::integer) as removed

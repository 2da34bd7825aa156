-- Delete documents with their chunks; return their ids. $1 tenant, $2 ids
delete from {schema}.document where tenant = $1 and id = any($2::text[]) returning id

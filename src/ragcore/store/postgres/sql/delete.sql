-- Documents with their chunks. $1 tenant, $2 ids
delete from ragcore.document where tenant = $1 and id = any($2::text[])

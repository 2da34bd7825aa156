-- When a document expires, if it is there with the content that was read; it stays so until the end of the transaction. $1 tenant, $2 id, $3 content hash
select expires_at from {schema}.document where tenant = $1 and id = $2 and content_hash = $3 for share

-- If a document still has the content that was read, return the time at which it expires, and lock its row until the end of the transaction.
-- $1 tenant, $2 id, $3 content hash
select expires_at from {schema}.document where tenant = $1 and id = $2 and content_hash = $3 for share

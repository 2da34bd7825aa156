-- The time at which a document expires, if it still has the content that was read. Locks the row until the end of the transaction.
-- $1 tenant, $2 id, $3 content hash
select expires_at from {schema}.document where tenant = $1 and id = $2 and content_hash = $3 for share

-- Whether a document is there with the content that was read, and stays so until the end of the transaction. $1 tenant, $2 id, $3 content hash
select id from {schema}.document where tenant = $1 and id = $2 and content_hash = $3 for share

-- Delete the chunks of documents of the tenant. $1 tenant, $2 ids of the documents, and $3 the same ids if chunks without a document exist
delete from {chunks} as i
where {own_chunk} and ({document} = any($2::text[]::{document_type}[]){or_alone}) and {condition}
returning coalesce(({document})::text, ({id})::text) as id

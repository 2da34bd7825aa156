-- What is embedded for a chunk
select value from {schema}.setting where name = 'embed_text'

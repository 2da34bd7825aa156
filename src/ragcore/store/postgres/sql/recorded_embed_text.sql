-- Return the recorded choice of the text to embed for a chunk.
select value from {schema}.setting where name = 'embed_text'

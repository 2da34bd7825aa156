-- Record the choice of the text to embed for a chunk. $1 "text", "title+text" or "headings+text"
select {schema}.record_embed_text($1) as former

"""Load tests of a service that answers questions, by its URL: `ragcore loadtest ladder | load | sweep | compare`.

The command line is the public face; the modules behind it may change. Needs the extra `loadtest`: httpx, rich and typer. It uses neither the client nor
a database, so it checks any service that answers questions over HTTP.
"""

"""Load tests of a service that answers questions over HTTP: `ragcore loadtest ladder | load | sweep | compare`.

Only the command line is public; the modules of this package may change. The package needs the extra `loadtest`: httpx, rich and typer. The load test uses
neither ragcore's client nor a database, so it can test any service that answers questions over HTTP.
"""

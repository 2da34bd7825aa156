"""A PostgreSQL with pgvector of your own: started in a folder, without root, Docker or a port. Extra `embedded`.

The server listens on a socket in its folder, which only the user that owns the folder may enter. Several processes may use one folder: the last to
leave stops the server, also where it leaves by `kill -9`. The binaries are the package's, the life cycle is ragcore's (`supervisor`).
"""

from ragcore.store.embedded.shared_server import Server, server
from ragcore.store.embedded.shared_server import start as start
from ragcore.store.embedded.shared_server import stop as stop
from ragcore.store.embedded.store import EmbeddedStore

__all__ = ["EmbeddedStore", "Server", "server"]

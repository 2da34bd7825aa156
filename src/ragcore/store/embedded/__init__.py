"""An embedded PostgreSQL with pgvector. It runs in a folder, without root, Docker or a port. Needs the extra `embedded`.

The server listens on a socket in its folder, which only the owner of the folder may enter. Several processes may use one folder. When the last one
leaves, the server stops, even if that process is killed with `kill -9`. The binaries come from a package; ragcore's `supervisor` starts and stops the
server.
"""

import importlib.util

from ragcore.errors import ConfigurationError

if importlib.util.find_spec("fcntl") is None:
    raise ConfigurationError(
        "the embedded PostgreSQL needs a POSIX system, such as Linux or macOS: set DATABASE_URL to a PostgreSQL of your own"
    )

from ragcore.store.embedded.shared_server import Server, server
from ragcore.store.embedded.shared_server import start as start
from ragcore.store.embedded.shared_server import stop as stop
from ragcore.store.embedded.store import EmbeddedStore

__all__ = ["EmbeddedStore", "Server", "server"]

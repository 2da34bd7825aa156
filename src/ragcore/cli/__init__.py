"""The command line: ingest, ask, search, similarity, doctor, migrate.

Results go to stdout, messages to stderr. Exit codes: 0 done; 1 done in part (a document failed, nothing was found, a check failed); 2 the command or the
configuration is at fault; 3 a dependency failed; 4 the time ran out or there was no room.
"""

from ragcore.cli.commands import run

__all__ = ["run"]

"""The command line `ragcore`.

Results go to stdout, messages to stderr. Exit codes: 0 success; 1 partial success (a document failed, nothing was found, a check failed); 2 the command or
the configuration is invalid; 3 a dependency failed; 4 the call timed out or was refused (overload, limit, circuit breaker).
"""

from ragcore.cli.commands import run

__all__ = ["run"]

"""asyncpg's errors as ours, in one place, and what they mean to the policy."""

from __future__ import annotations

import asyncpg
from asyncpg import exceptions as pg

from ragcore.errors import ConfigurationError, InvalidInput, RagcoreError, StoreError
from ragcore.resilience import Failure
from ragcore.store.postgres.dsn import Address

__all__ = ["judge", "translate"]

# The connection or the server went away, or is starting, stopping or full: another try may find it back.
PASSES_AND_COUNTS = (
    OSError,
    pg.PostgresConnectionError,
    pg.AdminShutdownError,
    pg.CrashShutdownError,
    pg.CannotConnectNowError,
    pg.TooManyConnectionsError,
    pg.InsufficientResourcesError,
)
# Two transactions were in each other's way: nobody is to blame, and the same again usually works.
PASSES = (pg.SerializationError, pg.DeadlockDetectedError)


def judge(error: Exception) -> Failure | None:
    """What an error of asyncpg's means to retry and breaker."""
    if isinstance(error, PASSES):
        return Failure(counts=False)
    if isinstance(error, PASSES_AND_COUNTS) or (isinstance(error, asyncpg.InterfaceError) and "clos" in str(error)):
        return Failure()  # asyncpg has no type of its own for a connection that was closed under it
    if isinstance(error, pg.QueryCanceledError):  # the server's own limit: it is slow, and trying again makes it slower
        return Failure(retry=False)
    return None


def translate(error: Exception, address: Address, *, stage: str, attempts: int = 1) -> RagcoreError:
    """The error to raise in place of a foreign one. Never shows the DSN, a password or a row."""
    if isinstance(error, RagcoreError):
        error.stage = error.stage or stage
        return error
    wrong = _configuration(error, address)
    if wrong is not None:
        return ConfigurationError(wrong, stage=stage)
    if (
        isinstance(error, pg.DataError | pg.ProgramLimitExceededError | asyncpg.exceptions.DataError)
        or type(error) is ValueError
    ):
        return InvalidInput(
            f"PostgreSQL can't take a value that was given ({type(error).__name__}): {str(error)[:200]}", stage=stage
        )
    if isinstance(error, TimeoutError):
        what = f"PostgreSQL at {address} did not answer in time"
    elif isinstance(error, OSError):
        what = f"PostgreSQL at {address} can't be reached ({type(error).__name__}: {error.strerror or error}); is it running, and is DATABASE_URL right?"
    elif isinstance(error, pg.TooManyConnectionsError):
        what = f"PostgreSQL at {address} has no connection left: lower pool_size, or raise its max_connections"
    elif isinstance(error, asyncpg.PostgresError):
        what = f"PostgreSQL at {address} failed ({error.sqlstate} {type(error).__name__})"
    else:
        what = f"the connection to PostgreSQL at {address} failed ({type(error).__name__})"
    return StoreError(what, dependency="database", attempts=attempts, stage=stage)


def _configuration(error: Exception, address: Address) -> str | None:
    user = address.user or "the default user"
    match error:
        case pg.InvalidPasswordError() | pg.InvalidAuthorizationSpecificationError():
            return f"PostgreSQL at {address} refused to let {user} in: check the user and the password in the DSN (not shown)"
        case pg.InvalidCatalogNameError():
            return f"there is no database {address.database!r} at {address}: check the DSN, or create it"
        case pg.UndefinedTableError() | pg.InvalidSchemaNameError():
            return f"the schema of ragcore is missing in {address}: run store.migrate(owner_dsn, …) or `ragcore migrate` as the owner"
        case pg.InsufficientPrivilegeError():
            return f"{user} may not use ragcore's tables in {address}: run store.migrate(owner_dsn, …, role={user!r}) as the owner"
        case pg.InvalidSQLStatementNameError() | pg.DuplicatePreparedStatementError():
            return f"a pooler in front of {address} mixes up prepared statements: add ?pgbouncer=true to the DSN"
        case pg.DataError() if "different vector dimensions" in str(error) or (
            "expected" in str(error) and "dimensions" in str(error)
        ):
            return (
                f"the vectors in {address} have another dimension than the embedder's ({error}): "
                "use the embedder that the documents were embedded with, or another database"
            )
        case pg.UndefinedFunctionError() if "ragcore." in str(error):
            return f"the schema of ragcore in {address} is older than this version: run store.migrate(owner_dsn, …) or `ragcore migrate` as the owner"
        case pg.UndefinedObjectError() | pg.UndefinedFunctionError() if "vector" in str(error):
            return f"the extension pgvector is missing in {address}: as its owner, run `create extension vector`"
        case ValueError() if "unknown type" in str(error):
            return f"the extension pgvector is missing in {address}: as its owner, run `create extension vector`"
        case pg.ClientConfigurationError():
            return f"the DSN of {address} is not right: {type(error).__name__}; see asyncpg's documentation for what it may hold"
    return None

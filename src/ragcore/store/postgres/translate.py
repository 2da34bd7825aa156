"""Translate asyncpg's errors to ragcore's, and classify them for the policy."""

from __future__ import annotations

import re
import ssl

import asyncpg
from asyncpg import exceptions as pg

from ragcore.errors import ConfigurationError, InvalidInput, NotOpen, Overloaded, RagcoreError, StoreError
from ragcore.resilience import Failure
from ragcore.store.postgres.dsn import Address
from ragcore.store.postgres.pool import ConnectionLost

__all__ = ["cause_of", "judge", "judge_replica", "translate"]

# The server can't be reached, or it is starting, stopping or full. A retry may succeed.
RETRY_AND_COUNT = (
    OSError,
    pg.PostgresConnectionError,
    pg.AdminShutdownError,
    pg.CrashShutdownError,
    pg.CannotConnectNowError,
    pg.TooManyConnectionsError,
    pg.InsufficientResourcesError,
    pg.InternalClientError,
)
# The end of an established connection does not show that the server is down; a failure to open a new one does. A conflict between two transactions
# usually disappears with a retry.
RETRY_ONLY = (ConnectionLost, pg.SerializationError, pg.DeadlockDetectedError, pg.LockNotAvailableError)
# PgBouncer uses one error code for everything. These messages are about its configuration; other errors may be temporary.
POOLER_CONFIGURATION = re.compile(
    r"no such (database|user)|unsupported startup parameter|authentication failed|not allowed|password|SSL required|auth_",
    re.IGNORECASE,
)
DENIED = re.compile(r"permission denied for (schema|table|relation|function|database|type|sequence|language) (\S+)")
GRANTS = {
    "schema": "grant usage on schema {name} to {user}",
    "table": "grant select, insert, update, delete on {name} to {user}",
    "relation": "grant select, insert, update, delete on {name} to {user}",
    "function": "grant execute on function {name} to {user}",
    "database": "grant connect on database {name} to {user}",
    "type": "grant usage on type {name} to {user}",
}
# Error code of a function in ragcore's schema: this collection may not replace the one in use.
COLLECTIONS_DIFFER = "RC002"
# Error code of the function `search_shared`: a named tenant is not in the table shared_tenant.
NOT_SHARED = "RC004"
# Error classes whose messages may contain values of a row.
MAY_HOLD_DATA = ("22", "23")
# The driver's message about a value that it can't send: "… for query argument $2: 'the value' (why)".
ARGUMENT = re.compile(r"argument (\$\d+)")
REASONS = (
    ("surrogates not allowed", "it holds a lone surrogate"),
    ("0x00", "it holds a NUL character"),
    ("out of range", "it is out of range"),
    ("out of int", "it is out of range"),
    ("expected", "it has the wrong type"),
)


def judge(error: Exception) -> Failure | None:
    """Classify an error of asyncpg for retry and circuit breaker."""
    if isinstance(error, RETRY_ONLY):
        return Failure(counts=False)
    if isinstance(error, ssl.SSLCertVerificationError) or _refuses_encryption(error):
        return None
    if isinstance(error, pg.ProtocolViolationError) and POOLER_CONFIGURATION.search(str(error)):
        return None
    if isinstance(error, RETRY_AND_COUNT):
        return Failure()
    # The server's own timeout ended the statement. The server is slow, and a retry would make it slower.
    if isinstance(error, pg.QueryCanceledError):
        return Failure(retry=False)
    return None


def judge_replica(error: Exception) -> Failure | None:
    """Classify an error of a replica. Whatever makes it unfit for reads counts, also a wrong password: each read would fail there before it goes elsewhere."""
    # These include a conflict with recovery: the replica ended a statement that held up its replay. The next statement succeeds.
    if isinstance(error, RETRY_ONLY):
        return Failure(counts=False)
    if isinstance(error, pg.DataError | pg.ProgramLimitExceededError | InvalidInput | Overloaded | NotOpen):
        return None
    return None if isinstance(error, asyncpg.PostgresError) and error.sqlstate == NOT_SHARED else Failure()


def translate(error: Exception, address: Address, *, stage: str, attempts: int = 1) -> RagcoreError:
    """Return the error to raise instead of the driver's. Its message never shows the DSN, a password or a row."""
    if isinstance(error, RagcoreError):
        error.stage = error.stage or stage
        return error
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate == NOT_SHARED:
        return InvalidInput(
            f"{error}. As the owner of the schema, run `ragcore share` for each of these tenants first", stage=stage
        )
    wrong = _configuration(error, address)
    if wrong is not None:
        return ConfigurationError(wrong, stage=stage)
    if isinstance(error, pg.DataError | pg.ProgramLimitExceededError) or type(error) is ValueError:
        # The driver's message is left out, since it quotes the value.
        argument = ARGUMENT.search(str(error))
        which = "a given value" if argument is None else f"the value of parameter {argument[1]}"
        return InvalidInput(f"PostgreSQL does not accept {which} ({type(error).__name__}{_reason(error)})", stage=stage)
    return StoreError(_failure(error, address), dependency="database", attempts=attempts, stage=stage)


def cause_of(error: Exception) -> BaseException | None:
    """Return the cause of the translated error; None if its message may contain a value or a row."""
    if isinstance(error, ConnectionLost):
        return error.__cause__
    holds_data = isinstance(error, asyncpg.PostgresError) and str(error.sqlstate)[:2] in MAY_HOLD_DATA
    return None if holds_data or type(error) is ValueError else error


def _failure(error: Exception, address: Address) -> str:
    match error:
        case ConnectionLost():
            return f"the connection to PostgreSQL at {address} was lost ({error})"
        case pg.TargetServerAttributeNotMatched():
            return f"none of the servers at {address} matches target_session_attrs in the DSN ({error})"
        case TimeoutError():
            return f"PostgreSQL at {address} did not answer in time"
        case OSError():
            return (
                f"PostgreSQL at {address} can't be reached ({type(error).__name__}: {error.strerror or error}): "
                "check that it runs, and check its DSN (DATABASE_URL or RAGCORE_READ_DSN)"
            )
        case pg.TooManyConnectionsError():
            return f"PostgreSQL at {address} has no free connection ({error}): lower pool_size, or raise its max_connections"
        case pg.ProtocolViolationError():
            return f"the pooler or server at {address} refused the connection: {error}"
        case asyncpg.PostgresError():
            return f"PostgreSQL at {address} failed ({error.sqlstate} {type(error).__name__}{_words(error)})"
    return f"the connection to PostgreSQL at {address} failed ({type(error).__name__}: {error})"


def _reason(error: Exception) -> str:
    """Return why PostgreSQL does not accept a value, in words that don't contain the value; "" if unknown."""
    text = str(error)
    return next((f": {reason}" for pattern, reason in REASONS if pattern in text), "")


def _words(error: asyncpg.PostgresError) -> str:
    return "" if str(error.sqlstate)[:2] in MAY_HOLD_DATA else f": {error.args[0] if error.args else ''}"


def _refuses_encryption(error: Exception) -> bool:
    return isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error)


def _configuration(error: Exception, address: Address) -> str | None:
    """Return the message for an error in a setting, a role or the schema, with the remedy; None for other errors."""
    user = address.user or "the default user"
    if _refuses_encryption(error):
        return f"PostgreSQL at {address} offers no encryption, and sslmode={address.sslmode} in the DSN requires it: switch TLS on at the server"
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate == COLLECTIONS_DIFFER:
        return f"{error.args[0]}: {error.hint}"
    match error:
        case ssl.SSLCertVerificationError():
            return f"the certificate of PostgreSQL at {address} can't be verified ({error.verify_message}): check sslrootcert and the host's name in the DSN"
        case pg.InvalidPasswordError():
            return f"PostgreSQL at {address} refused the login of {user}: check the user and the password in the DSN (not shown)"
        case pg.InvalidAuthorizationSpecificationError():
            return f"PostgreSQL at {address} refused the login of {user} ({error}): check user, password and sslmode in the DSN, and pg_hba.conf"
        case pg.ProtocolViolationError() if POOLER_CONFIGURATION.search(str(error)):
            return f"the pooler at {address} refused the connection of {user}: {error}"
        case pg.InvalidCatalogNameError():
            return (
                f"the database {address.database!r} does not exist at {address}: check the DSN, or create the database"
            )
        case pg.UndefinedTableError() | pg.InvalidSchemaNameError():
            return f"the schema of ragcore is missing in {address} ({error}): run store.migrate(owner_dsn, …) or `ragcore migrate` as the owner"
        case pg.ReadOnlySQLTransactionError():
            return (
                f"PostgreSQL at {address} is read-only, like a standby ({error}): connect to the primary, or name all hosts in the DSN "
                "with target_session_attrs=read-write"
            )
        case pg.InsufficientPrivilegeError():
            return _denied(error, address, user)
        case pg.InvalidSQLStatementNameError() | pg.DuplicatePreparedStatementError():
            return f"a pooler in front of {address} mixes up prepared statements: add ?pgbouncer=true to the DSN"
        case pg.DataError() if "different vector dimensions" in str(error) or (
            "expected" in str(error) and "dimensions" in str(error)
        ):
            return (
                f"the vectors in {address} and those of the embedder have different dimensions ({error}): "
                "use the embedder that the documents were embedded with, or another collection"
            )
        case pg.InvalidNameError() if "hnsw." in str(error):
            return f"pgvector in {address} is too old; ragcore needs 0.8 or later: install it, then run `alter extension vector update`"
        case pg.UndefinedObjectError() | pg.UndefinedFunctionError() if "vector" in str(error):
            return f"the extension pgvector is missing in {address}: as the owner, run `create extension vector`"
        case pg.UndefinedFunctionError() | pg.UndefinedColumnError():
            return f"the schema of ragcore in {address} is older than this version ({error}): run store.migrate(owner_dsn, …) or `ragcore migrate` as the owner"
        case ValueError() if "unknown type" in str(error):
            return f"the extension pgvector is missing in {address}: as the owner, run `create extension vector`"
        case pg.ClientConfigurationError():
            return f"the DSN of {address} is invalid: {error}"
    return None


def _denied(error: asyncpg.PostgresError, address: Address, user: str) -> str:
    """Return the message for a missing right, with the statement that grants it."""
    words = str(error.args[0] if error.args else "")
    if "row-level security policy for table" in words and "affected" in words:
        return f"{user} has row_security=off in {address}, and ragcore's tables need row_security=on: run `alter role {user} reset row_security`"
    denied = DENIED.search(words)
    if denied is None or denied[1] not in GRANTS:
        return (
            f"{user} lacks a right in {address} ({words}): run store.migrate(owner_dsn, …, role={user!r}) as the owner"
        )
    grant = GRANTS[denied[1]].format(name=denied[2], user=user)
    return f"{user} may not use the {denied[1]} {denied[2]} in {address}: as its owner, run `{grant}`, or `ragcore migrate` as the owner"

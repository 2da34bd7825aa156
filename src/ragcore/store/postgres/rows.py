"""Reads the rows of a user's query with a cursor, in a transaction that can't write."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack

import anyio
import asyncpg

from ragcore.errors import InvalidInput, RagcoreError, StoreError
from ragcore.store.postgres.connection import connect
from ragcore.store.postgres.dsn import parse
from ragcore.store.postgres.translate import translate
from ragcore.types.secret import Secret

__all__ = ["Columns", "Rows", "rows_of"]

Columns = tuple[str, ...]
Rows = Sequence[Sequence[object]]

# Rows that are fetched at once. Few, because a row may hold a whole document.
ROWS_AT_ONCE = 50
# Seconds to connect, and seconds for each fetch.
CONNECT_SECONDS, FETCH_SECONDS = 30.0, 300.0


async def rows_of(dsn: str | Secret, query: str, /) -> AsyncGenerator[tuple[Columns, Rows], None]:
    """Yield the rows of a query, at most 50 at a time, with the names of its columns. A query without rows yields its columns once.

    The transaction is read-only, and sees the database as it was at the start. It stays open until the last row is read.

    Raises:
        InvalidInput: the query is not one valid SELECT statement, or Python has no such value as one of a row.
        ConfigurationError: the DSN is wrong, or the role lacks a right.
        StoreError: PostgreSQL can't be reached, or failed, perhaps after some rows.
    """
    address = parse(dsn)
    try:
        async with AsyncExitStack() as stack:
            with anyio.fail_after(CONNECT_SECONDS):
                connection = await stack.enter_async_context(connect(address))
                await connection.execute("begin isolation level repeatable read, read only")
            with anyio.fail_after(FETCH_SECONDS):
                for kind in ("json", "jsonb"):
                    await connection.set_type_codec(kind, schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
                statement = await connection.prepare(query)
                cursor = await statement.cursor()
            columns = tuple(attribute.name for attribute in statement.get_attributes())
            first = True
            while True:
                try:
                    with anyio.fail_after(FETCH_SECONDS):
                        rows = await cursor.fetch(ROWS_AT_ONCE)
                # The driver can't make a value of Python, such as a date of the year 20000.
                except (ValueError, OverflowError) as error:
                    raise InvalidInput(
                        f"a value of the query can't be read ({type(error).__name__}): cast its column to text"
                    ) from None
                if rows or first:
                    yield columns, [tuple(row) for row in rows]
                first = False
                if len(rows) < ROWS_AT_ONCE:
                    break
            with anyio.fail_after(CONNECT_SECONDS):
                await connection.execute("rollback")
    except RagcoreError:
        raise
    except TimeoutError as error:
        raise StoreError(f"PostgreSQL at {address} did not answer the query in time", dependency="source") from error
    except (
        asyncpg.SyntaxOrAccessError,
        asyncpg.ReadOnlySQLTransactionError,
        asyncpg.FeatureNotSupportedError,
    ) as error:
        if isinstance(error, asyncpg.InsufficientPrivilegeError):
            raise translate(error, address, stage="read") from error
        raise InvalidInput(f"the query is not one valid SELECT statement for {address}: {error.args[0]}") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise translate(error, address, stage="read") from error

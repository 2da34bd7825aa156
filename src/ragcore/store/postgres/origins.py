"""The records of the sources that list documents, and the locks of sources.

Invariant: a document has at most one source. Its record changes in the transaction that writes the document, and is deleted with the document.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import asyncpg

from ragcore.errors import DeadlineExceeded, InvalidInput, Overloaded, StoreError
from ragcore.resilience import deadline
from ragcore.store.origins import foreign
from ragcore.store.postgres.collection import Collection
from ragcore.store.postgres.connection import (
    Connection,
    PooledConnection,
    again_after_deadlocks,
    connect,
    transaction,
)
from ragcore.store.postgres.dsn import Address
from ragcore.store.postgres.statements import SQL, quoted, statement
from ragcore.store.postgres.tenants import Tenants
from ragcore.store.postgres.translate import translate
from ragcore.types import Origin

__all__ = ["Origins", "align_origins", "record", "released"]

LOCK_SECONDS = 30.0


class Origins:
    """Reads and writes the records of sources.

    Args:
        collection: the collection with the records.
        tenants: remembered facts about tenants. A deletion removes those about its tenant.
    """

    def __init__(self, collection: Collection, tenants: Tenants) -> None:
        self._collection = collection
        self._tenants = tenants

    async def of(self, document_ids: Sequence[str], *, tenant: str) -> Mapping[str, Origin]:
        """Return the recorded origins of these documents."""
        return _origins(await self._collection.fetch("origins", tenant, list(document_ids), stage="write"))

    async def record(self, origins: Mapping[str, Origin], *, tenant: str) -> None:
        """Record the origins of stored documents. See `OriginStore`.

        Raises:
            InvalidInput: another source lists one of the documents.
        """

        async def work(connection: PooledConnection) -> None:
            async with transaction(connection):
                await connection.execute(SQL["set_tenant"], tenant)
                taken = [one for one, origin in origins.items() if origin.takes_over]
                if taken:
                    await connection.execute(self._collection.statement("release_origins", connection), tenant, taken)
                await record(connection, self._collection, origins, tenant)

        if origins:
            await self._collection.write(work, tenant=tenant)

    async def documents_of(self, source: str, *, tenant: str, after: str, limit: int) -> Mapping[str, Origin]:
        """Return the next documents that are recorded for a source."""
        return _origins(await self._collection.fetch("documents_of", tenant, source, after, limit, stage="write"))

    async def documents_of_entries(self, source: str, entries: Sequence[str], *, tenant: str) -> Mapping[str, Origin]:
        """Return the documents that are recorded for these entries of a source."""
        return _origins(
            await self._collection.fetch("documents_of_entries", tenant, source, list(entries), stage="write")
        )

    async def count_of(self, source: str, *, tenant: str) -> int:
        """Return the number of documents that are recorded for a source."""
        rows = await self._collection.fetch("count_of", tenant, source, stage="write")
        return int(rows[0]["documents"])

    async def delete_of(self, source: str, document_ids: Sequence[str], *, tenant: str) -> int:
        """Delete those of the documents that are still recorded for the source; return their number."""
        # As in `Writing.delete`, the ids are collected over all attempts.
        deleted: set[str] = set()

        async def work(connection: PooledConnection) -> None:
            async with transaction(connection):
                await connection.execute(SQL["set_tenant"], tenant)
                statement = self._collection.statement("delete_of", connection)
                rows = await connection.fetch(statement, tenant, list(document_ids), source)
                deleted.update(row["id"] for row in rows)

        await self._collection.write(work, tenant=tenant)
        self._tenants.forget(tenant)
        return len(deleted)

    @asynccontextmanager
    async def locked(
        self, address: Address, schema: str, sources: Sequence[str], *, tenant: str
    ) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Hold an advisory lock for each source during the block. Yield a function that raises `StoreError` if the locks were lost.

        The locks have their own connection, because other calls use the connections of the pool. Behind a pooler in transaction mode, a client has no session
        of its own, so an open transaction holds the locks.

        Raises:
            Overloaded: another process holds a lock.
            DeadlineExceeded, StoreError: PostgreSQL did not answer within 30 s, or can't be reached.
        """
        async with AsyncExitStack() as stack:
            try:
                with deadline(LOCK_SECONDS):
                    connection = await stack.enter_async_context(connect(address))
                    if address.pgbouncer:
                        await connection.execute("begin")
                    for source in sorted(set(sources)):
                        await _lock(connection, schema, source, tenant, in_transaction=address.pgbouncer)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                raise translate(error, address, stage="write") from error
            yield partial(_check, connection)


async def record(
    connection: PooledConnection, collection: Collection, origins: Mapping[str, Origin], tenant: str
) -> None:
    """Record the origins of documents within the caller's transaction.

    Raises:
        InvalidInput: another source lists one of the documents.
    """
    columns = [(one, origin.source, origin.entry, origin.version) for one, origin in origins.items()]
    rows = await connection.fetch(
        collection.statement("record_origins", connection), tenant, *map(list, zip(*columns, strict=True))
    )
    if rows:
        raise InvalidInput(foreign(rows[0]["document_id"], rows[0]["source"]), stage="write")


def released(document_ids: Sequence[str], origins: Mapping[str, Origin]) -> list[str]:
    """Return the documents whose earlier records are removed when they are written: those that no source lists, and those that their source takes over."""
    return [one for one in document_ids if one not in origins or origins[one].takes_over]


async def align_origins(connection: Connection, source: str, target: str, *, seconds: float) -> None:
    """Copy the records of sources from one collection to the same documents of another one. A record may change while the content hash stays the same.

    Args:
        connection: a connection of the owner.
        source, target: schemas of the collection with the records, and of the one that gets them.
        seconds: largest number of seconds of each transaction.
    """
    align = statement("align_origins", schema=quoted(target), other=quoted(source))

    async def step(tenant: str) -> None:
        async with transaction(connection):
            await connection.execute(SQL["set_tenant"], tenant)
            await connection.execute(align, tenant)

    with deadline(seconds):
        async with transaction(connection):
            rows = await connection.fetch(statement("tenants_of", schema=quoted(target)))
    for row in rows:
        with deadline(seconds):
            await again_after_deadlocks(partial(step, row["tenant"]))


async def _lock(connection: Connection, schema: str, source: str, tenant: str, *, in_transaction: bool) -> None:
    name = f"ragcore source\n{schema}\n{tenant}\n{source}"
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    function = "pg_try_advisory_xact_lock" if in_transaction else "pg_try_advisory_lock"
    if not await connection.fetchval(f"select pg_catalog.{function}($1)", key):
        raise Overloaded(
            f"another process is synchronising {source} for the tenant {tenant}: wait until it has ended, or stop it",
            dependency="source",
            stage="write",
        )


async def _check(connection: Connection) -> None:
    """Check the connection that holds the locks.

    Raises:
        StoreError: the connection is lost, so another process may hold the locks.
    """
    try:
        with deadline(LOCK_SECONDS):
            await connection.fetchval("select 1")
    # The driver raises an InternalClientError if the server's last message arrives at this moment.
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
        DeadlineExceeded,
    ) as error:
        raise StoreError(
            "the connection that holds the lock of the source was lost, so another process may have taken the lock: run the command again",
            dependency="database",
            stage="write",
        ) from error


def _origins(rows: Sequence[asyncpg.Record]) -> dict[str, Origin]:
    return {
        row["document_id"]: Origin(source=row["source"], entry=row["entry"], version=row["version"]) for row in rows
    }

"""Connections: acquired within the deadline, given back without ever blocking, and nothing left on them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import anyio
import asyncpg
from pgvector.asyncpg import register_vector

from ragcore.resilience.owner import CLEAN_UP, Owner, cleaning_up
from ragcore.store.postgres.dsn import Address

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

__all__ = ["Connection", "Pool", "connect", "transaction", "vector_schema"]

logger = logging.getLogger("ragcore.store")

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    _Base: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = _Base = asyncpg.Connection

VECTOR_SCHEMA = (
    "select nspname from pg_extension join pg_namespace on pg_namespace.oid = extnamespace where extname = 'vector'"
)


async def vector_schema(connection: Connection) -> str:
    """The schema that pgvector lives in.

    Raises:
        ValueError: the extension is missing.
    """
    schema = await connection.fetchval(VECTOR_SCHEMA)
    if schema is None:
        raise ValueError("unknown type: vector")
    return str(schema)


class _Connection(_Base):
    """A connection that knows whether it has been prepared.

    Not by the pool's `init`: where that is cancelled, asyncpg waits for the connection to close, without a bound.
    """

    __slots__ = ("_prepared",)

    async def prepare_once(self, *, keep_plans: bool) -> None:
        """Teach it vectors, when it is new.

        Args:
            keep_plans: make one plan for each statement and keep it: our statements fix the order of what they do themselves, and planning them anew
                for each vector takes as long as the search.
        """
        if not getattr(self, "_prepared", False):
            await register_vector(self, schema=await vector_schema(self))
            if keep_plans:
                await self.execute("set plan_cache_mode = force_generic_plan")
            self._prepared = True


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[None]:
    """A transaction for the block. Cancelled, it doesn't wait for a ROLLBACK: whoever holds the connection terminates it, which undoes it all."""
    began = connection.transaction()
    await began.start()
    try:
        yield
    except asyncpg.PostgresError:
        await began.rollback()
        raise
    await began.commit()


async def _keep_state(_: Connection) -> None:
    """Statements leave nothing on a connection, so the reset query, a second round trip, is not needed."""


@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """One connection outside of a pool; terminated rather than waited for."""
    connection = await asyncpg.connect(address.dsn.reveal(), statement_cache_size=_cached_statements(address))
    clean = False
    try:
        yield connection
        clean = True
    finally:
        if clean:
            with cleaning_up():
                await connection.close(timeout=CLEAN_UP)
        connection.terminate()


def _cached_statements(address: Address) -> int:
    """None behind a pooler in transaction mode: the next statement may go to another server; else asyncpg's default."""
    return 0 if address.pgbouncer else 100


class Pool:
    """At most `size` connections, opened when they are first needed.

    Opening the pool needs no database; a connection that is not clean is terminated, never waited for.
    """

    def __init__(self, address: Address, *, size: int, owner: Owner) -> None:
        self.size = size
        self._owner = owner
        # Behind a pooler in transaction mode a setting would be left on somebody else's connection.
        self._keep_plans = not address.pgbouncer
        self._pool = asyncpg.create_pool(
            address.dsn.reveal(),
            min_size=0,
            max_size=size,
            connection_class=_Connection,
            reset=_keep_state,
            max_inactive_connection_lifetime=300.0,
            statement_cache_size=_cached_statements(address),
        )

    async def open(self) -> None:
        """Ready for `acquire`; no connection is made yet."""
        await self._pool

    @property
    def in_use(self) -> int:
        """Connections out with callers."""
        return int(self._pool.get_size() - self._pool.get_idle_size())

    @property
    def idle(self) -> int:
        """Connections open and free."""
        return int(self._pool.get_idle_size())

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection for the block. One whose block was cancelled, or whose protocol broke, is terminated at once."""
        connection = await self._pool.acquire()
        clean = False
        try:
            await connection.prepare_once(keep_plans=self._keep_plans)  # type: ignore[attr-defined]  # the pool's proxy hands on what it doesn't know
            yield connection
            clean = True
        except asyncpg.PostgresError:
            clean = True  # the server said no; the protocol is in order
            raise
        finally:
            if not clean or connection.is_in_transaction():
                connection.terminate()
            await self._release(connection)

    async def _release(self, connection: Connection) -> None:
        released = False

        async def release() -> None:
            await self._pool.release(connection)  # type: ignore[arg-type]  # it came from this pool

        with cleaning_up():
            await release()
            released = True
        if not released:
            connection.terminate()
            self._owner.spawn(release, name="releasing a connection")

    async def close(self, timeout: float) -> None:
        """Close what is idle; terminate what isn't back in time."""
        closed = False
        try:
            with anyio.move_on_after(timeout):
                await self._pool.close()
                closed = True
        finally:
            if not closed:
                logger.warning("connections were still in use after %.1f s and were terminated", timeout)
                self._pool.terminate()

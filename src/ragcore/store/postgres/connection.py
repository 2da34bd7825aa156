"""A connection to PostgreSQL: opening it, preparing it, and transactions that end immediately when a call is cancelled."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import anyio
import asyncpg

from ragcore.compat.private import transport_of
from ragcore.lifecycle.owner import CLEAN_UP, cleaning_up
from ragcore.store.postgres.dsn import Address
from ragcore.store.postgres.extension import Extension, decode_vector, encode_vector, find_extension
from ragcore.store.postgres.index import IndexKind
from ragcore.store.postgres.statements import quoted
from ragcore.types.secret import without_frames

__all__ = ["Connection", "PooledConnection", "again_after_deadlocks", "connect", "connect_for_pool", "transaction"]

logger: logging.Logger = logging.getLogger("ragcore.store")

T = TypeVar("T")
# The largest number of attempts of a transaction that PostgreSQL ends because of a deadlock, and the longest wait before the next attempt, in seconds.
MOST_ATTEMPTS = 10
RETRY_SECONDS = 0.5

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:  # the class is generic only in the stubs
    Connection = asyncpg.Connection


class PooledConnection(Connection):
    """A connection of the pool.

    Invariant: after `make_ready`, `extension` and the codec of its type are set, so every statement may use vectors.

    Attributes:
        extension: pgvector as it was when the connection was prepared.
        generation: generation of the pool when the connection was opened or last worked.
        examined: whether the store has inspected role and schema through this connection.
        model, text_is_ready, index_kind: the embedding model of the server's collection, whether all of its chunks are prepared for text search, and the
            kind of its index. A replica may lag behind the primary in all of them. The store sets them before each call.
        partitions: number of partitions of the collection's chunks; 0 if there are none.
        reused: whether the connection has served an earlier call.
        idle_since: time at which the connection was given back, on the event loop's clock.
    """

    # asyncpg creates the instance with its own arguments, so `make_ready` sets these attributes instead of an __init__.
    __slots__ = (
        "examined",
        "extension",
        "generation",
        "idle_since",
        "index_kind",
        "model",
        "partitions",
        "reused",
        "text_is_ready",
    )

    examined: bool
    extension: Extension | None
    generation: int
    idle_since: float
    index_kind: IndexKind
    model: str | None
    partitions: int
    reused: bool
    text_is_ready: bool

    @property
    def vector_schema(self) -> str:
        """Schema in which pgvector is installed."""
        assert self.extension is not None
        return self.extension.schema

    async def make_ready(self, *, keep_plans: bool) -> None:
        """Prepare the connection for vectors.

        Args:
            keep_plans: whether to change settings of the session. This is possible only if no pooler shares the connection with other clients. PostgreSQL
                then keeps one plan for each statement, because planning it again for each vector takes as long as the search. One plan is enough, because
                ragcore's statements fix the order of their steps.
        """
        self.examined, self.reused, self.idle_since = False, False, 0.0
        self.extension, self.model, self.text_is_ready, self.index_kind = None, None, False, "vector"
        self.partitions = 0
        self.extension = found = await find_extension(self)
        found.check()
        await self.set_type_codec(
            "vector",
            schema=found.schema,
            encoder=encode_vector,
            decoder=decode_vector,
            format="binary",
        )
        if keep_plans:
            # Use only PostgreSQL's own functions and operators, because other roles may create functions in a schema of the search path.
            # Without JIT: PostgreSQL would compile a statement with a high estimated cost at each execution. On a server with LLVM and 20,000 chunks, a hybrid
            # search with a shared tenant took 1.6 s with it.
            await self.execute(
                "set plan_cache_mode = force_generic_plan; set search_path = pg_catalog, pg_temp; set jit = off"
            )
            # A cancelled call ends its connection. With this setting, the server notices the end even while it runs the statement or waits for a lock.
            with suppress(asyncpg.PostgresError):  # PostgreSQL before 14 and some platforms don't have the setting
                await self.execute("set client_connection_check_interval = '1s'")

    async def is_stale(self) -> bool:
        """Whether pgvector has been dropped and created again since `make_ready`."""
        known = self.extension
        try:
            return known is None or (await find_extension(self)).type != known.type
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError):
            return True

    def set_socket_options(self, options: Iterable[tuple[int, int, int]]) -> None:
        """Set each (level, option, value) that the socket supports."""
        transport = transport_of(self) if options else None
        socket = None if transport is None else transport.get_extra_info("socket")
        if socket is None:
            return
        for level, option, value in options:
            try:
                socket.setsockopt(level, option, value)
            except OSError:  # a Unix socket has no TCP options
                continue


async def compiling(connection: Connection, address: Address) -> tuple[str, ...]:
    """Return a warning if PostgreSQL compiles the statements of a connection behind a pooler (JIT); else (). Without a pooler, `make_ready` switches it off."""
    if not address.pgbouncer:
        return ()
    role = await connection.fetchval("select current_user where pg_jit_available() and current_setting('jit') = 'on'")
    if role is None:
        return ()
    remedy = f"run `alter role {quoted(role)} set jit = off`"
    return (
        f"PostgreSQL compiles statements (jit = on), which may take longer than a search. Behind a pooler, ragcore can't switch it off: {remedy}",
    )


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[None]:
    """Run the block in a transaction. A cancellation does not wait for a ROLLBACK: the holder of the connection terminates it, which undoes the block."""
    # Don't use `async with connection.transaction()`: it sends a ROLLBACK after each error, so a server that hangs would block a cancelled caller. After
    # any error that does not come from the server, the connection counts as unclean, and unclean connections are terminated.
    began = connection.transaction()
    await began.start()
    try:
        yield
    except asyncpg.PostgresError:
        # A session that has ended can't roll back; that second error would hide why it ended.
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await began.rollback()
        raise
    await began.commit()


async def again_after_deadlocks(step: Callable[[], Awaitable[T]], /) -> T:
    """Run a step that is one transaction of the owner. If PostgreSQL ends it because of a deadlock, run it again, at most ten times.

    The application's transactions lock rows and tables in another order than the owner's, and PostgreSQL ends one of the two. The step was rolled back as
    a whole. The wait is random, so that the step does not meet the same transactions at the same point again.
    """
    for attempt in range(1, MOST_ATTEMPTS):
        try:
            return await step()
        except asyncpg.DeadlockDetectedError:
            logger.info("transaction.deadlock: attempt %d of %d: trying again", attempt, MOST_ATTEMPTS)
            await anyio.sleep(RETRY_SECONDS * random.random())
    return await step()


@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Connection]:
    """Open one connection outside of a pool. After an error it is terminated, without waiting for the server."""
    connection = await _connected(address)
    clean = False
    try:
        yield connection
        clean = True
    finally:
        # Closing waits for the server, so it is done only if the server has just answered. Terminating a closed connection does nothing.
        if clean:
            with cleaning_up():
                await connection.close(timeout=CLEAN_UP)
        connection.terminate()


async def connect_for_pool(address: Address) -> PooledConnection:
    """Open a connection that is ready for statements. It is terminated if that fails or the caller is cancelled."""
    connection: PooledConnection = await _connected(address, connection_class=PooledConnection)
    clean = False
    # The connection is prepared here, not in `init` of asyncpg's pool: when `init` is cancelled, asyncpg closes the connection without a time limit.
    try:
        connection.set_socket_options(address.socket_options)
        # Behind a pooler in transaction mode, settings would stay on a connection that other clients use.
        await connection.make_ready(keep_plans=not address.pgbouncer)
        clean = True
    finally:
        if not clean:
            connection.terminate()
    return connection


async def _connected(address: Address, **options: Any) -> Any:
    """Open a connection. If that fails, the error has no frames of the driver, since they hold the DSN."""
    try:
        return await asyncpg.connect(**options, **_arguments(address))
    except Exception as error:
        raise without_frames(error)  # noqa: B904  # it is the error itself


def _arguments(address: Address) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "dsn": address.dsn.reveal(),
        # No cache behind a pooler in transaction mode: the next statement may go to another server connection.
        "statement_cache_size": 0 if address.pgbouncer else 100,
        # If the DSN sets no limit, only the deadline applies, instead of asyncpg's default of 60 s.
        "timeout": address.connect_timeout or 86_400.0,
    }
    if address.ssl is not None:
        arguments["ssl"] = address.ssl
    return arguments

"""Connections: acquired within the deadline, given back without ever blocking, and nothing left on them.

The pool is ours, not asyncpg's: giving back is one synchronous step, a dead connection is known by its state and not by the words of an error, and
one that is found dead takes the idle ones of its age with it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import anyio
import asyncpg
import numpy as np
from asyncpg import exceptions as pg
from numpy.typing import NDArray

from ragcore.compat.private import transport_of
from ragcore.errors import ConfigurationError, NotOpen
from ragcore.lifecycle.bound import expires_at
from ragcore.lifecycle.owner import CLEAN_UP, cleaning_up
from ragcore.resilience import Bulkhead
from ragcore.resilience.flow import current_flow
from ragcore.resilience.patience import in_line
from ragcore.store.postgres.dsn import Address
from ragcore.types.secret import without_frames

__all__ = [
    "Connection",
    "ConnectionLost",
    "Extension",
    "Pool",
    "PooledConnection",
    "connect",
    "encode_vector",
    "find_extension",
    "transaction",
]

logger = logging.getLogger("ragcore.store")

T = TypeVar("T")

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

# Who may wait for a connection; the policies of searches and writes let fewer come so far.
MOST_WAITING = 10_000
# Idle connections older than this are closed: firewalls forget connections without a word.
IDLE_SECONDS = 300.0
# A server that was there is waited for as long as a restart usually takes; one that is away for longer fails each call at once.
AWAY_SECONDS = 5.0
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
AWAY = (
    OSError,
    pg.CannotConnectNowError,
    pg.AdminShutdownError,
    pg.CrashShutdownError,
    pg.PostgresConnectionError,
    pg.InternalClientError,
)
# hnsw.iterative_scan came with it.
OLDEST_PGVECTOR = (0, 8)
# The server ended the session, whatever it was doing.
SESSION_ENDED = (
    pg.AdminShutdownError,
    pg.CrashShutdownError,
    pg.DatabaseDroppedError,
    pg.IdleSessionTimeoutError,
    pg.IdleInTransactionSessionTimeoutError,
    pg.TransactionTimeoutError,
    pg.PostgresConnectionError,
    pg.InternalClientError,
    ConnectionError,
)
# What a statement raises when the types or tables that the driver remembers are gone.
MAY_BE_STALE = (
    pg.DataError,
    pg.InternalServerError,
    pg.UndefinedObjectError,
    pg.UndefinedFunctionError,
    pg.UndefinedTableError,
    pg.InvalidCachedStatementError,
    pg.OutdatedSchemaCacheError,
    pg.FeatureNotSupportedError,
)

_EXTENSION = """
    select nspname as schema, extversion as version, pg_type.oid as type
    from pg_extension
    join pg_namespace on pg_namespace.oid = extnamespace
    join pg_type on typnamespace = extnamespace and typname = 'vector'
    where extname = 'vector'
"""


class ConnectionLost(ConnectionError):
    """A connection that had been established ended under its caller; the cause says how.

    Attributes:
        reused: it had served an earlier call, so that its loss says nothing about the server of now.
    """

    def __init__(self, message: str, *, reused: bool) -> None:
        super().__init__(message)
        self.reused = reused


class Extension:
    """pgvector as a database has it: its schema, its version and the oid of its type."""

    __slots__ = ("schema", "type", "version")

    def __init__(self, schema: str, version: str, type: int) -> None:
        self.schema = schema
        self.version = version
        self.type = type

    @property
    def is_too_old(self) -> bool:
        """Whether it lacks what a search needs."""
        numbers = tuple(int(part) for part in self.version.split(".")[:2] if part.isdigit())
        return numbers < OLDEST_PGVECTOR

    def check(self) -> None:
        """Raise `ConfigurationError` if the version is too old."""
        if self.is_too_old:
            raise ConfigurationError(
                f"pgvector {self.version} is too old, ragcore needs 0.8 or later: install it on the server, then run "
                "`alter extension vector update` as the extension's owner"
            )


async def find_extension(connection: Connection) -> Extension:
    """Look pgvector up.

    Raises:
        ValueError: the extension is missing.
    """
    row = await connection.fetchrow(_EXTENSION)
    if row is None:
        raise ValueError("unknown type: vector")
    return Extension(row["schema"], row["version"], row["type"])


if TYPE_CHECKING:
    _Base: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    _Base = asyncpg.Connection


class PooledConnection(_Base):
    """A connection of the pool.

    Attributes:
        extension: pgvector as it was when the connection was prepared.
        generation: the pool's when the connection was opened, or last proved alive.
        examined: whether the store has looked at its role and schema through it.
        reused: whether it has served a call.
        idle_since: when it was given back, on the event loop's clock.
    """

    __slots__ = ("examined", "extension", "generation", "idle_since", "reused")

    examined: bool
    extension: Extension | None
    generation: int
    idle_since: float
    reused: bool

    @property
    def vector_schema(self) -> str:
        """The schema that pgvector lives in."""
        assert self.extension is not None
        return self.extension.schema

    async def make_ready(self, *, keep_plans: bool) -> None:
        """Teach it vectors.

        Args:
            keep_plans: the connection is this pool's alone, so it may have settings. One plan is made for each statement and kept: our statements
                fix the order of what they do themselves, and planning them anew for each vector takes as long as the search.
        """
        self.examined, self.reused, self.idle_since = False, False, 0.0
        self.extension = None
        await self._learn()
        if keep_plans:
            # Nobody else's functions and operators, whatever may be created in a schema of the search path.
            await self.execute("set plan_cache_mode = force_generic_plan; set search_path = pg_catalog, pg_temp")
            # A call that gives up ends its connection; the server notices while it still works on the statement, or waits for a lock.
            with suppress(asyncpg.PostgresError):  # before PostgreSQL 14, and where the platform can't
                await self.execute("set client_connection_check_interval = '1s'")

    async def _learn(self) -> None:
        self.extension = found = await find_extension(self)
        found.check()
        await self.set_type_codec(
            "vector",
            schema=found.schema,
            encoder=encode_vector,
            decoder=_decode,
            format="binary",
        )

    async def is_stale(self) -> bool:
        """Whether pgvector has been dropped and created again since."""
        known = self.extension
        try:
            return known is None or (await find_extension(self)).type != known.type
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError):
            return True


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[None]:
    """A transaction for the block. Cancelled, it doesn't wait for a ROLLBACK: whoever holds the connection terminates it, which undoes it all."""
    began = connection.transaction()
    await began.start()
    try:
        yield
    except asyncpg.PostgresError:
        # A session that was ended can't roll back, and saying so would hide why it ended.
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await began.rollback()
        raise
    await began.commit()


@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Connection]:
    """One connection outside of a pool; terminated rather than waited for."""
    connection = await _connected(address)
    clean = False
    try:
        yield connection
        clean = True
    finally:
        if clean:
            with cleaning_up():
                await connection.close(timeout=CLEAN_UP)
        connection.terminate()


async def _connected(address: Address, **options: Any) -> Any:
    """A new connection. Where that fails, the driver's frames, which hold the DSN, are not told of."""
    try:
        return await asyncpg.connect(**options, **_arguments(address))
    except Exception as error:
        raise without_frames(error)  # noqa: B904  # it is the error itself


def _arguments(address: Address) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "dsn": address.dsn.reveal(),
        # None behind a pooler in transaction mode: the next statement may go to another server.
        "statement_cache_size": 0 if address.pgbouncer else 100,
        # Without a limit of the DSN's the deadline bounds it; asyncpg's own default of 60 s would be one more.
        "timeout": address.connect_timeout or 86_400.0,
    }
    if address.ssl is not None:
        arguments["ssl"] = address.ssl
    return arguments


class Pool:
    """At most `size` connections, opened when they are first needed, the one used last handed out first.

    Args:
        address: where to.
        size: connections at most; callers beyond wait, in turn between flows.
    """

    def __init__(self, address: Address, *, size: int) -> None:
        self.size = size
        self._address = address
        self._places = Bulkhead(size, queue=MOST_WAITING, name="the pool of connections")
        self._idle: list[PooledConnection] = []
        self._in_use: set[PooledConnection] = set()
        self._generation = 0
        self._closing = False
        self._all_back = anyio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._has_connected = False
        self._away_since: float | None = None

    @property
    def in_use(self) -> int:
        """Connections out with callers."""
        return len(self._in_use)

    @property
    def idle(self) -> int:
        """Connections open and free."""
        return len(self._idle)

    async def run(self, work: Callable[[PooledConnection], Awaitable[T]]) -> T:
        """Run `work` on a connection. One whose work was cancelled, or whose protocol broke, is terminated at once.

        Raises:
            ConnectionLost: the connection ended during the work; all idle ones of its age are discarded.
            Overloaded: no connection was free in time.
            What `work` or connecting raised.
        """
        flow = current_flow.get()
        if not self._places.try_acquire(flow):
            with in_line():
                await self._places.acquire(expires_at(), flow=flow)
        try:
            self._check_open()
            connection = self._take_idle() or await self._open()
            self._in_use.add(connection)
            clean = False
            try:
                result = await work(connection)
                clean = True
                return result
            except Exception as error:
                if _is_lost(connection, error) or await self._is_stale(connection, error):
                    self._discard(connection)
                    raise ConnectionLost(f"{type(error).__name__}: {error}", reused=connection.reused) from error
                clean = isinstance(error, asyncpg.PostgresError)  # the server said no; the protocol is in order
                raise
            finally:
                self._give_back(connection, clean=clean)
        finally:
            self._places.release(flow=flow)

    async def close(self, timeout: float) -> None:
        """Wait for what is in use, close what is idle; terminate what isn't done in time."""
        self._closing = True
        began = anyio.current_time()
        if self._timer is not None:
            self._timer.cancel()
        try:
            with anyio.move_on_after(timeout):
                if self._in_use:
                    await self._all_back.wait()
                async with anyio.create_task_group() as group:
                    for connection in self._idle:
                        group.start_soon(_close_quietly, connection)
        finally:
            if self._in_use:
                logger.warning(
                    "pool.terminated: %d connections were still in use after %.1f s",
                    len(self._in_use),
                    anyio.current_time() - began,
                )
            for connection in (*self._idle, *self._in_use):
                connection.terminate()
            self._idle.clear()

    def _take_idle(self) -> PooledConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._discard(connection)  # the server closed it; the others of its age are probably dead, too
        return None

    async def _open(self) -> PooledConnection:
        """A new connection. A server that was there and is away for a moment, as at a restart, is waited for, within the deadline."""
        pause = SHORTEST_PAUSE
        while True:
            try:
                connection = await self._connect()
            except AWAY as error:
                now = anyio.current_time()
                if not self._has_connected or isinstance(error, (TimeoutError, pg.ProtocolViolationError)):
                    raise
                self._away_since = now if self._away_since is None else self._away_since
                if now + pause >= min(self._away_since + AWAY_SECONDS, expires_at()):
                    raise
                await anyio.sleep(random.uniform(0.5, 1.0) * pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                self._check_open()
            else:
                self._has_connected, self._away_since = True, None
                return connection

    def _check_open(self) -> None:
        """Who waited for a place, for the server or for a connection while the pool was closed must not go on."""
        if self._closing:
            raise NotOpen("the store was closed while this call waited")

    async def _connect(self) -> PooledConnection:
        generation = self._generation
        connection: PooledConnection = await _connected(self._address, connection_class=PooledConnection)
        connection.generation = generation
        clean = False
        try:
            self._set_socket_options(connection)
            # Behind a pooler in transaction mode a setting would be left on somebody else's connection.
            await connection.make_ready(keep_plans=not self._address.pgbouncer)
            self._check_open()
            clean = True
        finally:
            if not clean:
                connection.terminate()
        return connection

    def _set_socket_options(self, connection: PooledConnection) -> None:
        transport = transport_of(connection) if self._address.socket_options else None
        socket = None if transport is None else transport.get_extra_info("socket")
        if socket is None:
            return
        for level, option, value in self._address.socket_options:
            try:
                socket.setsockopt(level, option, value)
            except OSError:  # a unix socket has none of TCP's
                continue

    async def _is_stale(self, connection: PooledConnection, error: Exception) -> bool:
        if not connection.reused or connection.is_in_transaction():
            return False
        if isinstance(error, pg.ReadOnlySQLTransactionError):  # of several hosts another one may be the primary by now
            return "," in self._address.host
        return isinstance(error, MAY_BE_STALE) and await connection.is_stale()

    def _discard(self, dead: PooledConnection) -> None:
        """Discard the idle connections of a dead one's age: what ended it has probably ended them.

        Once for each generation, so that callers who lose their connections together don't discard each other's new ones.
        """
        if dead.generation < self._generation:
            return
        self._generation += 1
        for connection in self._idle:
            connection.terminate()
        self._idle.clear()

    def _give_back(self, connection: PooledConnection, *, clean: bool) -> None:
        self._in_use.discard(connection)
        if not clean or self._closing or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
        else:
            connection.reused = True
            connection.generation = self._generation  # it has just proved alive
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
            if self._timer is None:
                self._close_idle_later()
        if self._closing and not self._in_use:
            self._all_back.set()

    def _close_idle_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS / 2, self._close_idle)

    def _close_idle(self) -> None:
        """Called by the timer, outside of any task, so without a goodbye: to an idle session the end of its socket says as much."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        fresh = [connection for connection in self._idle if now - connection.idle_since < IDLE_SECONDS]
        for connection in self._idle:
            if connection not in fresh:
                connection.terminate()
        self._idle[:] = fresh
        if fresh:
            self._close_idle_later()


def encode_vector(vector: NDArray[np.floating[Any]] | bytes) -> bytes:
    """pgvector's binary form: the number of dimensions, two bytes that are zero, big-endian floats. In an array of vectors each must have it already:
    asyncpg takes an array of numpy's for a nested array.
    """
    if isinstance(vector, bytes):
        return vector
    return struct.pack(">HH", len(vector), 0) + np.asarray(vector).astype(">f4").tobytes()


def _decode(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, ">f4", offset=4).astype(np.float32)


def _is_lost(connection: Connection, error: Exception) -> bool:
    return connection.is_closed() or isinstance(error, SESSION_ENDED)


async def _close_quietly(connection: Connection) -> None:
    """Say goodbye to the server, within bounds; whatever happens, the connection is closed."""
    try:
        await connection.close(timeout=1.0)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()

"""A pool of connections. A connection is acquired within the deadline, and given back without blocking and without leftover state.

This pool replaces asyncpg's for three reasons: giving back is one synchronous step; a dead connection is recognised by its state, not by the text of
an error; and when a connection is dead, idle ones of the same generation are discarded as well.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import asyncpg
from asyncpg import exceptions as pg

from ragcore.errors import NotOpen
from ragcore.lifecycle.bound import expires_at
from ragcore.resilience import Bulkhead
from ragcore.resilience.flow import current_flow
from ragcore.resilience.patience import in_line
from ragcore.store.postgres.connection import Connection, PooledConnection, connect_for_pool
from ragcore.store.postgres.dsn import Address

__all__ = ["ConnectionLost", "Pool"]

logger: logging.Logger = logging.getLogger("ragcore.store")

T = TypeVar("T")

# Largest number of callers that wait for a connection. The policies of searches and writes admit fewer.
MOST_WAITING = 10_000
# Connections that are idle for longer are closed, because firewalls drop idle connections silently.
IDLE_SECONDS = 300.0
# If a server was reachable before, calls wait this long for it. A restart takes about this time. If the server is away for longer, calls fail immediately.
AWAY_SECONDS = 5.0
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
# Errors of an attempt to connect while a server restarts. OSError: no process listens yet. InternalClientError: the server closed the socket in the
# handshake.
AWAY = (
    OSError,
    pg.CannotConnectNowError,
    pg.AdminShutdownError,
    pg.CrashShutdownError,
    pg.PostgresConnectionError,
    pg.InternalClientError,
)
# Errors that mean that the server ended the session.
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
# Errors of a statement when types or tables that the driver has cached no longer exist.
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


class ConnectionLost(ConnectionError):
    """An established connection ended during a call; the cause is the driver's error.

    Attributes:
        reused: whether the connection had served an earlier call. If so, its loss does not show that the server is down now.
    """

    def __init__(self, message: str, *, reused: bool) -> None:
        super().__init__(message)
        self.reused = reused


class Pool:
    """At most `size` connections. They are opened when needed, and the most recently used one is handed out first.

    Invariant: a caller that has a connection or opens one holds a place of the bulkhead, which has `size` places. A connection is either idle, in use
    or terminated. An idle one is in no transaction, has no cancelled statement that still runs, and ended its last call without a protocol error.

    Attributes:
        address: address of the database.
        size: largest number of connections. Further callers wait; flows take turns.
        away_seconds: seconds for which calls wait for a server that was reachable before. None: 5 s.
    """

    def __init__(self, address: Address, *, size: int, away_seconds: float | None = None) -> None:
        self.address = address
        self.size = size
        self.away_seconds: float = AWAY_SECONDS if away_seconds is None else away_seconds
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
        """Number of connections that callers use."""
        return len(self._in_use)

    @property
    def is_closing(self) -> bool:
        """Whether the pool is closed, or is being closed."""
        return self._closing

    @property
    def idle(self) -> int:
        """Number of connections that are open and free."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Number of callers that wait for a connection."""
        return self._places.waiting

    async def run(self, work: Callable[[PooledConnection], Awaitable[T]]) -> T:
        """Run `work` on a connection. The connection is terminated if the work is cancelled or the protocol breaks.

        Errors of `work` and of connecting are raised unchanged.

        Raises:
            ConnectionLost: the connection ended during the work. All idle connections of its generation are discarded.
            Overloaded: no connection was free in time.
        """
        flow = current_flow.get()
        # Try without waiting first: usually a place is free, and no timer is needed.
        if not self._places.try_acquire(flow):
            with in_line():
                await self._places.acquire(expires_at(), flow=flow)
        try:
            self._check_open()
            connection = self._take_idle() or await self._open()
            # No await from here to the `try`: a cancellation in between would lose the connection.
            self._in_use.add(connection)
            clean = False
            try:
                result = await work(connection)
                clean = True
                return result
            except Exception as error:
                # A cancellation is not caught here: a statement may still run after it, so `clean` stays false.
                if _is_lost(connection, error) or await self._is_stale(connection, error):
                    self._discard(connection)
                    raise ConnectionLost(f"{type(error).__name__}: {error}", reused=connection.reused) from error
                # After an error that the server reported, the protocol is intact.
                clean = isinstance(error, asyncpg.PostgresError)
                raise
            finally:
                self._give_back(connection, clean=clean)
        finally:
            # Release the place after the connection is back, so that the next caller finds it idle and does not open another one.
            self._places.release(flow=flow)

    async def close(self, timeout: float) -> None:
        """Wait for connections in use, and close idle ones. Terminate those that are left after the timeout.

        Args:
            timeout: seconds.
        """
        # This is set before anything is awaited, so that callers that wait for a place or a connection see it.
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
            self.terminate()

    def terminate(self) -> None:
        """Terminate all connections at once. Callers that wait for one get `NotOpen`."""
        self._closing = True
        for connection in (*self._idle, *self._in_use):
            connection.terminate()
        self._idle.clear()

    def _take_idle(self) -> PooledConnection | None:
        while self._idle:
            # Take the most recently used connection, so that connections that are not needed stay idle and are closed.
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._discard(connection)  # the server closed it; others of its generation are probably dead, too
        return None

    async def _open(self) -> PooledConnection:
        """Open a connection. If a server that was reachable before is away for a moment, as at a restart, wait for it within the deadline."""
        pause = SHORTEST_PAUSE
        while True:
            try:
                connection = await self._connect()
            except AWAY as error:
                now = anyio.current_time()
                # If the server never answered, a wrong address is more likely than a restart. Two errors of AWAY are not retried: a call with a TimeoutError
                # has already waited, and a pooler raises ProtocolViolationError if its configuration refuses the client.
                if not self._has_connected or isinstance(error, (TimeoutError, pg.ProtocolViolationError)):
                    raise
                # The wait is counted for the pool, not for each call: calls wait only in the first seconds of an outage; later they fail immediately.
                self._away_since = now if self._away_since is None else self._away_since
                if now + pause >= min(self._away_since + self.away_seconds, expires_at()):
                    raise
                await anyio.sleep(random.uniform(0.5, 1.0) * pause)  # random, so that callers don't connect all at once
                pause = min(2 * pause, LONGEST_PAUSE)
                self._check_open()
            else:
                self._has_connected, self._away_since = True, None
                return connection

    def _check_open(self) -> None:
        """Raise `NotOpen` in callers that waited for a place, the server or a connection while the pool was closed."""
        if self._closing:
            raise NotOpen("the store was closed while this call waited")

    async def _connect(self) -> PooledConnection:
        # Read the generation before connecting. If the pool discards its connections meanwhile, this connection counts as old, and if it is lost, no newer
        # connections are discarded.
        generation = self._generation
        connection = await connect_for_pool(self.address)
        connection.generation = generation
        try:
            self._check_open()
        except NotOpen:
            connection.terminate()  # `close` did not, because the connection was not in use yet
            raise
        return connection

    async def _is_stale(self, connection: PooledConnection, error: Exception) -> bool:
        # A new connection has no outdated cache. In a failed transaction, no statement can run to check the cache.
        if not connection.reused or connection.is_in_transaction():
            return False
        if isinstance(error, pg.ReadOnlySQLTransactionError):  # another one of several hosts may be the primary now
            return "," in self.address.host
        return isinstance(error, MAY_BE_STALE) and await connection.is_stale()

    def _discard(self, dead: PooledConnection) -> None:
        """Discard idle connections of the same generation as a dead one, since they are probably dead as well.

        This happens once for each generation, so callers that lose their connections together don't discard each other's new ones.
        """
        if dead.generation < self._generation:
            return
        self._generation += 1
        for connection in self._idle:
            connection.terminate()
        self._idle.clear()

    def _give_back(self, connection: PooledConnection, *, clean: bool) -> None:
        # This function is synchronous, so that a cancellation can't interrupt it. asyncpg's pool would send a RESET and wait for the server. No RESET is
        # needed, because each statement limits its settings to its own transaction.
        self._in_use.discard(connection)
        if not clean or self._closing or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
        else:
            connection.reused = True
            connection.generation = self._generation  # it has just worked
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
            if self._timer is None:
                self._close_idle_later()
        if self._closing and not self._in_use:
            self._all_back.set()

    def _close_idle_later(self) -> None:
        # There is one timer for all connections, and only while some of them are idle, so an unused pool does nothing.
        self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS / 2, self._close_idle)

    def _close_idle(self) -> None:
        """Close connections that are idle for too long. The timer calls this outside of any task, so it only closes the sockets, which is enough."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        fresh = [connection for connection in self._idle if now - connection.idle_since < IDLE_SECONDS]
        for connection in self._idle:
            if connection not in fresh:
                connection.terminate()
        self._idle[:] = fresh
        if fresh:
            self._close_idle_later()


def _is_lost(connection: Connection, error: Exception) -> bool:
    return connection.is_closed() or isinstance(error, SESSION_ENDED)


async def _close_quietly(connection: Connection) -> None:
    """Close a connection, with a timeout. After an error it is terminated."""
    try:
        await connection.close(timeout=1.0)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()

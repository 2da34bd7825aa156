"""A pool of connections: acquired within the deadline, given back without ever blocking, and nothing left on them.

The pool is ours, not asyncpg's: giving back is one synchronous step, a dead connection is known by its state and not by the words of an error, and
one that is found dead takes the idle ones of its age with it.
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

# Who may wait for a connection; the policies of searches and writes let fewer come so far.
MOST_WAITING = 10_000
# Idle connections older than this are closed: firewalls forget connections without a word.
IDLE_SECONDS = 300.0
# A server that was there is waited for as long as a restart usually takes; one that is away for longer fails each call at once.
AWAY_SECONDS = 5.0
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
# What connecting raises while a server restarts. OSError: nobody listens yet; InternalClientError: it closed the socket during the handshake.
AWAY = (
    OSError,
    pg.CannotConnectNowError,
    pg.AdminShutdownError,
    pg.CrashShutdownError,
    pg.PostgresConnectionError,
    pg.InternalClientError,
)
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


class ConnectionLost(ConnectionError):
    """A connection that had been established ended under its caller; the cause says how.

    Attributes:
        reused: it had served an earlier call, so that its loss says nothing about the server of now.
    """

    def __init__(self, message: str, *, reused: bool) -> None:
        super().__init__(message)
        self.reused = reused


class Pool:
    """At most `size` connections, opened when they are first needed, the one used last handed out first.

    Invariant: whoever has a connection, or is opening one, holds a place of the bulkhead, and there are `size` places. A connection is idle, in use or
    terminated, never two of these; an idle one is in no transaction, has no cancelled statement under way, and ended its last call in order.

    Attributes:
        address: where to.
        size: connections at most; callers beyond wait, in turn between flows.
    """

    def __init__(self, address: Address, *, size: int) -> None:
        self.address = address
        self.size = size
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
        # First without waiting: the usual call finds a place free and needs no timer.
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
            except Exception as error:  # not a cancellation: it leaves a statement under way, so `clean` stays false
                if _is_lost(connection, error) or await self._is_stale(connection, error):
                    self._discard(connection)
                    raise ConnectionLost(f"{type(error).__name__}: {error}", reused=connection.reused) from error
                clean = isinstance(error, asyncpg.PostgresError)  # the server said no; the protocol is in order
                raise
            finally:
                self._give_back(connection, clean=clean)
        finally:
            # After the connection is back: whoever gets the place next finds it idle instead of opening one more.
            self._places.release(flow=flow)

    async def close(self, timeout: float) -> None:
        """Wait for what is in use, close what is idle; terminate what isn't done in time.

        Args:
            timeout: seconds.
        """
        # Before anything is awaited: whoever waits for a place or a connection must find it set.
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
            # The one used last: what a quiet hour doesn't need stays at the bottom, grows old and is closed.
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
                # A server that never answered is more likely a wrong address than a restart. Two of the errors that AWAY includes mean something
                # else: a TimeoutError has waited already, and a pooler's ProtocolViolationError says that its configuration refuses us.
                if not self._has_connected or isinstance(error, (TimeoutError, pg.ProtocolViolationError)):
                    raise
                # The pool's, not the call's: all calls together wait so long for one outage, and later ones fail at once.
                self._away_since = now if self._away_since is None else self._away_since
                if now + pause >= min(self._away_since + AWAY_SECONDS, expires_at()):
                    raise
                await anyio.sleep(
                    random.uniform(0.5, 1.0) * pause
                )  # at random, so that the callers don't all knock at once
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
        # Read before connecting: what ends connections meanwhile makes this one old as well, so that its loss discards no newer ones.
        generation = self._generation
        connection = await connect_for_pool(self.address)
        connection.generation = generation
        try:
            self._check_open()
        except NotOpen:
            connection.terminate()  # `close` could not: it is not in use yet
            raise
        return connection

    async def _is_stale(self, connection: PooledConnection, error: Exception) -> bool:
        # A new connection has nothing old to remember, and in a transaction that has failed no statement could look.
        if not connection.reused or connection.is_in_transaction():
            return False
        if isinstance(error, pg.ReadOnlySQLTransactionError):  # of several hosts another one may be the primary by now
            return "," in self.address.host
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
        # Synchronous, so that no cancellation can leave it half done. asyncpg's pool sends a RESET here, which waits for the server; ours has nothing
        # to reset, since each statement keeps its settings to its own transaction.
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
        # One timer for all, and only while there are idle ones: a pool that nobody uses does nothing.
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


def _is_lost(connection: Connection, error: Exception) -> bool:
    return connection.is_closed() or isinstance(error, SESSION_ENDED)


async def _close_quietly(connection: Connection) -> None:
    """Say goodbye to the server, within bounds; whatever happens, the connection is closed."""
    try:
        await connection.close(timeout=1.0)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()

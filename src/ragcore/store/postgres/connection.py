"""One connection to PostgreSQL: how it is opened and prepared, and transactions that a cancelled call leaves at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from ragcore.compat.private import transport_of
from ragcore.lifecycle.owner import CLEAN_UP, cleaning_up
from ragcore.store.postgres.dsn import Address
from ragcore.store.postgres.extension import Extension, decode_vector, encode_vector, find_extension
from ragcore.types.secret import without_frames

__all__ = ["Connection", "PooledConnection", "connect", "connect_for_pool", "transaction"]

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:  # only the stubs know the class as a generic one
    Connection = asyncpg.Connection


class PooledConnection(Connection):
    """A connection of the pool.

    Invariant: once `make_ready` has returned, `extension` is set and its type's codec is, so every statement may use vectors.

    Attributes:
        extension: pgvector as it was when the connection was prepared.
        generation: the pool's when the connection was opened, or last proved alive.
        examined: whether the store has looked at its role and schema through it.
        reused: whether it has served a call.
        idle_since: when it was given back, on the event loop's clock.
    """

    # asyncpg makes the instance, with arguments that are its own affair, so these are set in `make_ready` instead of an __init__.
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
            # Nobody else's functions and operators, whatever may be created in a schema of the search path.
            await self.execute("set plan_cache_mode = force_generic_plan; set search_path = pg_catalog, pg_temp")
            # A call that gives up ends its connection; the server notices while it still works on the statement, or waits for a lock.
            with suppress(asyncpg.PostgresError):  # before PostgreSQL 14, and where the platform can't
                await self.execute("set client_connection_check_interval = '1s'")

    async def is_stale(self) -> bool:
        """Whether pgvector has been dropped and created again since."""
        known = self.extension
        try:
            return known is None or (await find_extension(self)).type != known.type
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError):
            return True

    def set_socket_options(self, options: Iterable[tuple[int, int, int]]) -> None:
        """Set (level, option, value) on the socket, where there is one that takes it."""
        transport = transport_of(self) if options else None
        socket = None if transport is None else transport.get_extra_info("socket")
        if socket is None:
            return
        for level, option, value in options:
            try:
                socket.setsockopt(level, option, value)
            except OSError:  # a unix socket has none of TCP's
                continue


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[None]:
    """A transaction for the block. Cancelled, it doesn't wait for a ROLLBACK: whoever holds the connection terminates it, which undoes it all."""
    # Not `async with connection.transaction()`: it sends a ROLLBACK whatever ended the block, and a server that hangs then holds the caller who
    # has given up. Any error but the server's own leaves the connection unclean, and unclean connections are terminated.
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
        # A goodbye is an exchange with the server, so only one that has just answered gets it; terminating one that is closed does nothing.
        if clean:
            with cleaning_up():
                await connection.close(timeout=CLEAN_UP)
        connection.terminate()


async def connect_for_pool(address: Address) -> PooledConnection:
    """A new connection, ready for statements; terminated if it can't be made ready, or the caller is cancelled."""
    connection: PooledConnection = await _connected(address, connection_class=PooledConnection)
    clean = False
    # Here rather than in `init` of a pool of asyncpg's: cancelled in there, asyncpg closes the connection without a bound.
    try:
        connection.set_socket_options(address.socket_options)
        # Behind a pooler in transaction mode a setting would be left on somebody else's connection.
        await connection.make_ready(keep_plans=not address.pgbouncer)
        clean = True
    finally:
        if not clean:
            connection.terminate()
    return connection


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

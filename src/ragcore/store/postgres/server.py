"""A server with a collection: its pool, its policy, and what was found there. The role is inspected through each connection before it is used."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol, TypeVar

import anyio

from ragcore.errors import ConfigurationError
from ragcore.resilience import Policy, deadline
from ragcore.resilience.failure import On
from ragcore.store.postgres.calling import call
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.dsn import Address
from ragcore.store.postgres.finding import Finding
from ragcore.store.postgres.index import Index
from ragcore.store.postgres.inspection import Inspection, inspect, read_settings
from ragcore.store.postgres.pool import Pool
from ragcore.store.postgres.statements import quoted
from ragcore.store.postgres.translate import translate

__all__ = ["Server", "ServerSettings"]

logger: logging.Logger = logging.getLogger("ragcore.store")

T = TypeVar("T")

LOOK_SECONDS = 10.0
# The kind of the index may change while the store is open, so the collection's settings are read again after this many seconds.
SETTINGS_SECONDS = 30.0


class ServerSettings(Protocol):
    """The settings of a store that concern each of its servers. They are read at each call, so a changed attribute takes effect with the next call."""

    pool_size: int
    schema: str
    allow_unsafe_role: bool


class Server:
    """One server, or several hosts of which the driver chooses one, with a collection.

    Invariant: `call` inspects role and schema through a connection before it runs any work on it. It refuses a role to which row-level security does not
    apply, except if the settings allow such a role. `found` holds the last inspection, also after `close`.

    Args:
        settings: the store's settings.
        address: the server's address.
        on: the rule that judges an error for the policy.
        away_seconds: seconds for which calls wait for a server that was reachable before.

    Attributes:
        pool: the connections.
        found: the last inspection; None before the first one.
        looked: set when the inspection at start has ended.
    """

    def __init__(
        self, settings: ServerSettings, address: Address, *, on: On, away_seconds: float | None = None
    ) -> None:
        self._settings = settings
        self._on = on
        self.pool: Pool = Pool(address, size=settings.pool_size, away_seconds=away_seconds)
        self.found: Inspection | None = None
        self.looked: anyio.Event = anyio.Event()
        self._read_again_at = 0.0

    @property
    def address(self) -> Address:
        """Address of the server."""
        return self.pool.address

    async def call(
        self,
        work: Callable[[PooledConnection], Awaitable[T]],
        *,
        stage: str,
        policy: Policy,
        examine: bool = True,
    ) -> T:
        """Run `work` on a connection of the pool, through the policy. Errors of the driver are raised as ragcore's errors.

        Args:
            work: the work; it runs once for each attempt.
            stage: stage of the call, for its errors.
            policy: the policy.
            examine: whether to inspect role and schema first. False if `work` does that itself.
        """
        work = self._after_examining(work) if examine else work
        return await call(self.pool, work, policy=policy, on=self._on, stage=stage)

    async def call_directly(self, work: Callable[[PooledConnection], Awaitable[T]]) -> T:
        """Run `work` on a connection of the pool, bypassing the policy. Errors of the driver are raised unchanged."""
        return await self.pool.run(self._after_examining(work))

    async def inspect(self, policy: Policy) -> Inspection:
        """Inspect the role, the schema and the server."""
        return await self.call(self._inspect, stage="start", policy=policy, examine=False)

    async def look(self, *, is_current: Callable[[], bool]) -> None:
        """Inspect role and schema at start, and log each problem. Bypasses the policy: an error here must not open its breaker.

        Args:
            is_current: whether the store is still open. If not, an error does not matter.
        """
        try:
            with deadline(LOOK_SECONDS):
                self.found = await self.pool.run(self._inspect)
        except Exception as error:
            if is_current():
                logger.warning("%s", self._unready(translate(error, self.address, stage="start")))
        finally:
            self.looked.set()  # also after a cancellation: callers that wait for the inspection must not wait forever
        for finding in () if self.found is None else self._findings(self.found):
            logger.log(logging.ERROR if finding.severity == "error" else logging.WARNING, "%s", finding.message)

    def refuse_if_unsafe(self) -> None:
        """Refuse a role to which row-level security does not apply, since it sees all tenants' rows."""
        found = self.found
        if found is not None and not self._settings.allow_unsafe_role and found.unsafe:
            raise ConfigurationError(
                f"{'; '.join(found.unsafe)}. To work without isolation of tenants, pass allow_unsafe_role=True"
            )

    def _after_examining(
        self, work: Callable[[PooledConnection], Awaitable[T]]
    ) -> Callable[[PooledConnection], Awaitable[T]]:
        async def examined(connection: PooledConnection) -> T:
            await self._examine(connection)
            return await work(connection)

        return examined

    async def _inspect(self, connection: PooledConnection) -> Inspection:
        return await inspect(connection, self.address, schema=self._settings.schema)

    async def _examine(self, connection: PooledConnection) -> None:
        if not connection.examined:
            self.found = found = await self._inspect(connection)
            self._read_again_at = anyio.current_time() + SETTINGS_SECONDS
            if found.active not in (None, self._settings.schema):
                await self._use_collection(connection)
            # Set last: if the inspection failed or was cancelled, the next call repeats it.
            connection.examined = True
        elif anyio.current_time() >= self._read_again_at:
            await self._read_settings(connection)
        # Checked at each call, since the setting may have changed.
        self.refuse_if_unsafe()
        assert self.found is not None
        connection.partitions = self.found.partitions
        connection.model, connection.text_is_ready, connection.index_kind = (
            self.found.model,
            self.found.text_is_ready,
            self.found.index_kind,
        )

    async def _read_settings(self, connection: PooledConnection) -> None:
        """Read the kind of the index again, and whether text search is ready."""
        assert self.found is not None
        # Set first, so that of several calls at once only one reads the settings.
        self._read_again_at = anyio.current_time() + SETTINGS_SECONDS
        if self.found.index is not None:
            settings = await read_settings(connection, self._settings.schema)
            self.found = replace(
                self.found, index=Index.recorded(settings), text_is_ready=settings.get("text") == "ready"
            )

    async def _use_collection(self, connection: PooledConnection) -> None:
        """Put this collection into use for its group. PostgreSQL refuses that while this collection differs from the one in use."""
        await connection.execute(f"select {quoted(self._settings.schema)}.use_collection()")

    def _findings(self, found: Inspection) -> list[Finding]:
        return found.findings()

    def _unready(self, error: Exception) -> str:
        return f"store.unready: the database is not ready: {error}"

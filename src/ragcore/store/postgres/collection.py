"""Access to a collection, through a pool and a policy. The role of each connection is inspected before the connection is used."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import anyio
import asyncpg

from ragcore.errors import ConfigurationError
from ragcore.lifecycle.owner import Owner
from ragcore.resilience import Policy, deadline
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.dsn import Address
from ragcore.store.postgres.inspection import Inspection, inspect
from ragcore.store.postgres.pool import ConnectionLost, Pool
from ragcore.store.postgres.statements import quoted, statement
from ragcore.store.postgres.translate import cause_of, judge, translate

__all__ = ["Collection", "StoreSettings"]

logger: logging.Logger = logging.getLogger("ragcore.store")

T = TypeVar("T")

LOOK_SECONDS = 10.0


class StoreSettings(Protocol):
    """The settings of a store. Its parts read them at each call and do not copy them, so a changed attribute takes effect with the next call."""

    pool_size: int
    exact_rows: int | None
    ef_search: int
    schema: str
    allow_unsafe_role: bool
    policy: Policy
    write_policy: Policy


class Collection:
    """Access to a collection in a database.

    Invariant: between `open` and `close` there is a pool. `call` inspects role and schema through a connection before it runs any work on it. It refuses a
    role to which row-level security does not apply, except if the settings allow such a role. `found` holds the last inspection, also after `close`.

    Args:
        settings: the store's settings.
        check_open: raises an error if the store is not open on this event loop; returns the owner of the store's background work.
    """

    def __init__(self, settings: StoreSettings, *, check_open: Callable[[], Owner]) -> None:
        self._settings = settings
        self._check_open = check_open
        self._pool: Pool | None = None
        self._looked = anyio.Event()
        self.found: Inspection | None = None

    def open(self, address: Address) -> None:
        """Create a pool without connections, and inspect role and schema in the background."""
        owner = self._check_open()
        self._pool = Pool(address, size=self._settings.pool_size)
        self.found, self._looked = None, anyio.Event()
        owner.spawn(self._look, name="checking the schema")

    async def close(self) -> None:
        """Close the connections within 2 s."""
        # The pool is removed first: background work then sees that the store is closed, and logs no warning about the database.
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=2.0)

    async def first_look(self) -> Inspection | None:
        """Wait for the inspection at start and return it; None if the database could not be reached."""
        self._check_open()
        await self._looked.wait()
        return self.found

    async def fetch(
        self, name: str, /, *values: object, stage: str, policy: Policy | None = None
    ) -> list[asyncpg.Record]:
        """Run one statement of `sql/` as one call, and return its rows. See `call`."""

        async def work(connection: PooledConnection) -> list[asyncpg.Record]:
            return await connection.fetch(self.statement(name, connection), *values)

        return await self.call(work, stage=stage, policy=policy)

    def statement(self, name: str, connection: PooledConnection) -> str:
        """Return a statement of `sql/` with the schemas of the collection and of pgvector filled in."""
        return statement(name, schema=quoted(self._settings.schema), vector=quoted(connection.vector_schema))

    async def call(
        self,
        work: Callable[[PooledConnection], Awaitable[T]],
        *,
        stage: str,
        policy: Policy | None = None,
        examine: bool = True,
    ) -> T:
        """Run `work` on a connection of the pool, through the policy. Errors of the driver are raised as ragcore's errors.

        Args:
            work: the work; it runs once for each attempt.
            stage: stage of the call, for its errors.
            policy: the policy. None: that of searches.
            examine: whether to inspect role and schema first. False if `work` does that itself.
        """
        pool = self._opened()
        attempts = 0

        async def examined(connection: PooledConnection) -> T:
            if not connection.examined:
                self.found = found = await inspect(connection, pool.address, schema=self._settings.schema)
                # If another collection of the group is in use, `use_collection` puts this one into use, or raises an error.
                if found.active not in (None, self._settings.schema):
                    await connection.execute(f"select {quoted(self._settings.schema)}.use_collection()")
                # This is set last, so that the next call repeats an inspection that failed or was cancelled.
                connection.examined = True
            # The role is checked at each call, because the setting may have changed.
            self._refuse_if_unsafe()
            return await work(connection)

        async def attempt() -> T:
            nonlocal attempts
            attempts += 1
            try:
                return await pool.run(examined if examine else work)
            except ConnectionLost as lost:
                if not lost.reused:
                    raise
            # An idle connection may have ended long ago, as with HTTP keep-alive, so a new connection is tried immediately. This is outside of the
            # `except`, so that an error of the second try does not name the first as its context.
            attempts += 1
            return await pool.run(examined if examine else work)

        try:
            return await (policy or self._settings.policy).call(attempt, on=judge)
        except Exception as error:
            ours = translate(error, pool.address, stage=stage, attempts=attempts)
            if ours is error:
                raise
            raise ours from cause_of(error)

    async def call_directly(self, work: Callable[[PooledConnection], Awaitable[T]]) -> T:
        """Run `work` on a connection of the pool, bypassing the policy. Errors of the driver are raised unchanged."""
        return await self._opened().run(work)

    async def inspect(self) -> Inspection:
        """Inspect the role, the schema and the server."""
        address = self._opened().address
        return await self.call(
            lambda connection: inspect(connection, address, schema=self._settings.schema), stage="start", examine=False
        )

    async def ping(self) -> None:
        """Check the role and the schema.

        Raises:
            ConfigurationError: the extension, the schema or a right is missing, or the role is unsafe.
        """
        self.found = found = await self.inspect()
        wrong = [finding.message for finding in found.findings() if finding.severity == "error"]
        if not found.is_complete:
            raise ConfigurationError("; ".join(wrong))
        self._refuse_if_unsafe()

    @property
    def former_models(self) -> Sequence[str]:
        """Former models of the collection. Content hashes of these models also mark documents as unchanged."""
        return () if self.found is None else self.found.former_models

    def check_model(self, model: str | None) -> None:
        """Raise `ConfigurationError` if the vectors of a model can't be compared with those of the collection."""
        known = None if self.found is None else self.found.model
        if model is not None and known is not None and model != known:
            raise ConfigurationError(
                f"the collection {self._settings.schema} holds vectors of {known}, and the embedder is {model}: use that model, or another collection"
            )

    def snapshot(self) -> Mapping[str, int]:
        """Return the use of the pool as serialisable data."""
        pool = self._pool
        return {
            "size": self._settings.pool_size,
            "in_use": pool.in_use if pool else 0,
            "idle": pool.idle if pool else 0,
            "waiting": pool.waiting if pool else 0,
        }

    async def _look(self) -> None:
        """Check role and schema at start, bypassing the policy: an error here must not open its breaker."""
        pool = self._pool
        if pool is None:  # the store is closed already
            self._looked.set()
            return
        try:
            with deadline(LOOK_SECONDS):
                self.found = await pool.run(
                    lambda connection: inspect(connection, pool.address, schema=self._settings.schema)
                )
        except Exception as error:
            if self._pool is not None:  # if the store is closed already, the error does not matter
                logger.warning(
                    "store.unready: the database is not ready: %s", translate(error, pool.address, stage="start")
                )
        finally:
            self._looked.set()  # also after a cancellation: callers of `first_look` must not wait forever
        for finding in () if self.found is None else self.found.findings():
            logger.log(logging.ERROR if finding.severity == "error" else logging.WARNING, "%s", finding.message)

    def _opened(self) -> Pool:
        self._check_open()
        assert self._pool is not None
        return self._pool

    def _refuse_if_unsafe(self) -> None:
        """Refuse a role to which row-level security does not apply, since it sees all tenants' rows."""
        found = self.found
        if found is not None and not self._settings.allow_unsafe_role and found.unsafe:
            raise ConfigurationError(
                f"{'; '.join(found.unsafe)}. To work without isolation of tenants, pass allow_unsafe_role=True"
            )

"""A collection as a store reaches it: through a pool and a policy, by a role that is looked at before its connection is used."""

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
    """What can be set of a store. Its parts read it at each call and copy nothing, so that an attribute which is changed holds from the next call on."""

    pool_size: int
    exact_rows: int | None
    ef_search: int
    schema: str
    allow_unsafe_role: bool
    policy: Policy
    write_policy: Policy


class Collection:
    """A collection in a database.

    Invariant: between `open` and `close` there is a pool. No work of `call` runs on a connection before role and schema were looked at through it, nor
    for a role that row-level security does not bind, unless the settings allow it. What was found last stands in `found`, also after `close`.

    Args:
        settings: the store's.
        check_open: raises if the store is not open here; returns the owner of its background work.
    """

    def __init__(self, settings: StoreSettings, *, check_open: Callable[[], Owner]) -> None:
        self._settings = settings
        self._check_open = check_open
        self._pool: Pool | None = None
        self._looked = anyio.Event()
        self.found: Inspection | None = None

    def open(self, address: Address) -> None:
        """Make a pool, without a connection, and look at role and schema in the background."""
        owner = self._check_open()
        self._pool = Pool(address, size=self._settings.pool_size)
        self.found, self._looked = None, anyio.Event()
        owner.spawn(self._look, name="looking at the schema")

    async def close(self) -> None:
        """Close the connections, within 2 s."""
        # Taken first: whatever runs meanwhile sees that there is none, and says nothing about a database that nobody wants any more.
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=2.0)

    async def first_look(self) -> Inspection | None:
        """What the role found when the collection was opened; None if the database could not be reached."""
        self._check_open()
        await self._looked.wait()
        return self.found

    async def fetch(
        self, name: str, /, *values: object, stage: str, policy: Policy | None = None
    ) -> list[asyncpg.Record]:
        """The rows of one statement of `sql/`, as one call. See `call`."""

        async def work(connection: PooledConnection) -> list[asyncpg.Record]:
            return await connection.fetch(self.statement(name, connection), *values)

        return await self.call(work, stage=stage, policy=policy)

    def statement(self, name: str, connection: PooledConnection) -> str:
        """A statement of `sql/` with the schemas of the collection and of pgvector filled in."""
        return statement(name, schema=quoted(self._settings.schema), vector=quoted(connection.vector_schema))

    async def call(
        self,
        work: Callable[[PooledConnection], Awaitable[T]],
        *,
        stage: str,
        policy: Policy | None = None,
        examine: bool = True,
    ) -> T:
        """Run `work` on a connection of the pool, through the policy; foreign errors come out as ours.

        Args:
            work: may run several times, once for each attempt.
            stage: of the call, for its errors.
            policy: None: that of searches.
            examine: False for what looks at role and schema itself.
        """
        pool = self._opened()
        attempts = 0

        async def examined(connection: PooledConnection) -> T:
            if not connection.examined:
                self.found = found = await inspect(connection, pool.address, schema=self._settings.schema)
                # Where another collection of the group is in use, this one replaces it, or is refused.
                if found.active not in (None, self._settings.schema):
                    await connection.execute(f"select {quoted(self._settings.schema)}.use_collection()")
                # Last: a look that failed or was cancelled half-way is repeated by the next call.
                connection.examined = True
            # At each call, since the setting may have been changed.
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
            # As with HTTP's kept connections: that an idle one had ended says nothing, so a new one is tried at once. Outside of the `except`, so that
            # the error of the second try does not name the first as its context.
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
        """Run `work` on a connection of the pool, bypassing the policy; foreign errors come out as they are."""
        return await self._opened().run(work)

    async def inspect(self) -> Inspection:
        """What the role finds in the database."""
        address = self._opened().address
        return await self.call(
            lambda connection: inspect(connection, address, schema=self._settings.schema), stage="start", examine=False
        )

    async def ping(self) -> None:
        """A look at role and schema.

        Raises:
            ConfigurationError: the extension or the schema is missing, a right is, or the role is not safe.
        """
        self.found = found = await self.inspect()
        wrong = [finding.message for finding in found.findings() if finding.severity == "error"]
        if not found.is_complete:
            raise ConfigurationError("; ".join(wrong))
        self._refuse_if_unsafe()

    @property
    def former_models(self) -> Sequence[str]:
        """Models whose content hashes stand for unchanged documents as well, besides the collection's own."""
        return () if self.found is None else self.found.former_models

    def check_model(self, model: str | None) -> None:
        """Raise `ConfigurationError` if vectors of a model can't be compared with the collection's."""
        known = None if self.found is None else self.found.model
        if model is not None and known is not None and model != known:
            raise ConfigurationError(
                f"the collection {self._settings.schema} holds vectors of {known}, and the embedder is {model}: use that model, or another collection"
            )

    def snapshot(self) -> Mapping[str, int]:
        """Use of the pool, serialisable."""
        pool = self._pool
        return {
            "size": self._settings.pool_size,
            "in_use": pool.in_use if pool else 0,
            "idle": pool.idle if pool else 0,
        }

    async def _look(self) -> None:
        """Check role and schema at start, bypassing the policy: its breaker must not open for that."""
        pool = self._pool
        if pool is None:  # closed at once
            self._looked.set()
            return
        try:
            with deadline(LOOK_SECONDS):
                self.found = await pool.run(
                    lambda connection: inspect(connection, pool.address, schema=self._settings.schema)
                )
        except Exception as error:
            if self._pool is not None:  # closed at once: there is nothing to say
                logger.warning("the database is not ready: %s", translate(error, pool.address, stage="start"))
        finally:
            self._looked.set()  # also when it is cancelled: whoever waits for the first look must not wait for ever
        for finding in () if self.found is None else self.found.findings():
            logger.log(logging.ERROR if finding.severity == "error" else logging.WARNING, "%s", finding.message)

    def _opened(self) -> Pool:
        self._check_open()
        assert self._pool is not None
        return self._pool

    def _refuse_if_unsafe(self) -> None:
        """A role that row-level security doesn't bind sees all tenants' rows."""
        found = self.found
        if found is not None and not self._settings.allow_unsafe_role and found.unsafe:
            raise ConfigurationError(
                f"{'; '.join(found.unsafe)}. To work without isolation, pass allow_unsafe_role=True"
            )

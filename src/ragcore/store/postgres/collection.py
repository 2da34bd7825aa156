"""Access to a collection, on the primary and on its replicas."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio
import asyncpg

from ragcore.errors import ConfigurationError, NotOpen, RagcoreError
from ragcore.lifecycle.owner import Owner
from ragcore.protocols import Query
from ragcore.resilience import Policy
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.dsn import Address
from ragcore.store.postgres.inspection import Inspection
from ragcore.store.postgres.reading import Reading
from ragcore.store.postgres.replica import Replica
from ragcore.store.postgres.replication import Replication
from ragcore.store.postgres.searches import statement_of
from ragcore.store.postgres.server import Server
from ragcore.store.postgres.statements import quoted, statement
from ragcore.store.postgres.translate import judge

__all__ = ["Collection", "StoreSettings", "search_statement"]

logger: logging.Logger = logging.getLogger("ragcore.store")

T = TypeVar("T")


class StoreSettings(Protocol):
    """The settings of a store. Its parts read them at each call and do not copy them, so a changed attribute takes effect with the next call."""

    pool_size: int
    exact_rows: int | None
    ef_search: int
    schema: str
    allow_unsafe_role: bool
    policy: Policy
    write_policy: Policy
    read_policies: Mapping[str, Policy]
    read_your_writes: float


class Collection:
    """Access to a collection in a database, and in its replicas.

    Invariant: between `open` and `close` there is a primary. Writes, and reads that must see the last write, run there. Other reads run where `reading`
    decides.

    Args:
        settings: the store's settings.
        check_open: raises an error if the store is not open on this event loop; returns the owner of the store's background work.
    """

    def __init__(self, settings: StoreSettings, *, check_open: Callable[[], Owner]) -> None:
        self._settings = settings
        self._check_open = check_open
        self._primary: Server | None = None
        self._replicas: Sequence[Replica] = ()
        self._replication = Replication((), settings.read_your_writes)
        self._reading: Reading | None = None

    def open(self, address: Address, replicas: Sequence[Address] = ()) -> None:
        """Create pools without connections, and inspect role and schema of each server in the background."""
        owner = self._check_open()
        self._primary = primary = Server(self._settings, address, on=judge)
        self._replicas = [
            Replica(self._settings, replica, self._settings.read_policies[str(replica)]) for replica in replicas
        ]
        self._replication = Replication(self._replicas, self._settings.read_your_writes)
        self._reading = Reading(primary, self._replicas, self._replication)
        for server in self._servers:
            look = partial(server.look, is_current=lambda: self._primary is primary)
            owner.spawn(look, name="checking the schema")

    async def close(self) -> None:
        """Close the connections within 2 s."""
        # The servers are removed first: background work then sees that the store is closed, and logs no warning about the database.
        servers = self._servers
        self._primary, self._reading, self._replicas = None, None, ()
        try:
            async with anyio.create_task_group() as group:
                for server in servers:
                    group.start_soon(partial(server.pool.close, timeout=2.0))
        finally:
            for server in servers:  # a cancelled task group may never have started to close a pool
                server.pool.terminate()

    async def first_look(self) -> Inspection | None:
        """Wait for the inspections at start; return that of the primary, or of a replica; None if no server could be reached."""
        self._check_open()
        for server in self._servers:
            await server.looked.wait()
            if server.found is not None:
                return server.found
        return None

    async def fetch(
        self, name: str, /, *values: object, stage: str, policy: Policy | None = None
    ) -> list[asyncpg.Record]:
        """Run one statement of `sql/` as one call on the primary, and return its rows. See `call`."""
        return await self.call(self._statement_work(name, *values), stage=stage, policy=policy)

    def statement(self, name: str, connection: PooledConnection) -> str:
        """Return a statement of `sql/` with the schemas of the collection and of pgvector filled in."""
        return statement(name, schema=quoted(self._settings.schema), vector=quoted(connection.vector_schema))

    async def call(
        self, work: Callable[[PooledConnection], Awaitable[T]], *, stage: str, policy: Policy | None = None
    ) -> T:
        """Run `work` on a connection to the primary, through the policy. Errors of the driver are raised as ragcore's errors.

        Args:
            work: the work; it runs once for each attempt.
            stage: stage of the call, for its errors.
            policy: the policy. None: that of searches.
        """
        return await self._opened().call(work, stage=stage, policy=policy or self._settings.policy)

    async def read(self, work: Callable[[PooledConnection], Awaitable[T]], *, stage: str, tenants: Sequence[str]) -> T:
        """Run `work`, which only reads rows of some tenants, on a replica or on the primary. See `Reading`."""
        primary = self._opened()
        assert self._reading is not None
        if not self._replicas:
            return await primary.call(work, stage=stage, policy=self._settings.policy)
        return await self._reading.call(work, stage=stage, policy=self._settings.policy, tenants=tenants)

    async def fetch_anywhere(
        self, name: str, /, *values: object, stage: str, tenants: Sequence[str]
    ) -> list[asyncpg.Record]:
        """Run one statement of `sql/` that only reads, and return its rows. See `read`."""
        return await self.read(self._statement_work(name, *values), stage=stage, tenants=tenants)

    async def write(self, work: Callable[[PooledConnection], Awaitable[T]], *, tenant: str) -> T:
        """Run `work`, which writes documents of a tenant. From then on, only servers that have its result answer reads of the tenant."""
        call = partial(self.call, stage="write", policy=self._settings.write_policy)
        if not self._replicas:
            return await call(work)
        return await self._replication.noting(tenant, work, call, self._check_open())

    async def call_directly(self, work: Callable[[PooledConnection], Awaitable[T]], *, tenant: str) -> T:
        """Run `work`, which only reads rows of a tenant, bypassing the policies. Errors of the driver are raised unchanged."""
        primary = self._opened()
        assert self._reading is not None
        if not self._replicas:
            return await primary.call_directly(work)
        return await self._reading.call_directly(work, tenants=(tenant,))

    async def inspect(self) -> Inspection:
        """Inspect the role, the schema and the server, and each replica."""
        primary = self._opened()
        if not self._replicas:
            return await primary.inspect(self._settings.policy)
        found = await primary.inspect(self._settings.policy)
        return replace(found, replicas=await self._replication.report(primary))

    async def ping(self) -> None:
        """Check the role and the schema on the primary.

        Raises:
            ConfigurationError: the extension, the schema or a right is missing, or the role is unsafe.
        """
        primary = self._opened()
        await _ping(primary, self._settings.policy)

    async def ping_replicas(self) -> Mapping[str, str | None]:
        """Check role and schema on each replica; return the error by address, None for a replica that works."""
        self._opened()
        errors: dict[str, str | None] = {}

        async def one(replica: Replica) -> None:
            try:
                with replica.in_time():
                    await _ping(replica, replica.policy)
            except RagcoreError as error:
                errors[str(replica.address)] = str(error)
            else:
                errors[str(replica.address)] = None

        async with anyio.create_task_group() as group:
            for replica in self._replicas:
                group.start_soon(one, replica)
        return errors

    @property
    def former_models(self) -> Sequence[str]:
        """Former models of the collection. Content hashes of these models also mark documents as unchanged."""
        found = None if self._primary is None else self._primary.found
        return () if found is None else found.former_models

    def check_model(self, model: str | None, connection: PooledConnection) -> None:
        """Raise `ConfigurationError` if vectors of a model can't be compared with those of the connection's server."""
        known = connection.model
        if model is not None and known is not None and model != known:
            raise ConfigurationError(
                f"the collection {self._settings.schema} holds vectors of {known}, and the embedder is {model}: use that model, or another collection"
            )

    def snapshot(self) -> Mapping[str, Any]:
        """Return the use of the pools as serialisable data."""
        pool = None if self._primary is None else self._primary.pool
        found: dict[str, Any] = {
            "size": self._settings.pool_size,
            "in_use": pool.in_use if pool else 0,
            "idle": pool.idle if pool else 0,
            "waiting": pool.waiting if pool else 0,
        }
        if self._settings.read_policies:
            found["replicas"] = {str(replica.address): replica.snapshot() for replica in self._replicas}
        return found

    @property
    def _servers(self) -> list[Server]:
        return [] if self._primary is None else [self._primary, *self._replicas]

    def _statement_work(self, name: str, *values: object) -> Callable[[PooledConnection], Awaitable[Any]]:
        async def work(connection: PooledConnection) -> list[asyncpg.Record]:
            return await connection.fetch(self.statement(name, connection), *values)

        return work

    def _opened(self) -> Server:
        self._check_open()
        if self._primary is None:
            raise NotOpen("the store is closed")
        return self._primary


async def _ping(server: Server, policy: Policy) -> None:
    server.found = found = await server.inspect(policy)
    wrong = [finding.message for finding in found.findings() if finding.severity == "error"]
    if not found.is_complete:
        raise ConfigurationError("; ".join(wrong))
    server.refuse_if_unsafe()


def search_statement(
    settings: StoreSettings,
    connection: PooledConnection,
    query: Query,
    *,
    exactly: bool | None,
    chunks: Sequence[float | None],
    scans_text: bool,
    hides_expired: bool,
) -> tuple[str, list[object]]:
    """Return the statement of a search for this connection, and the values of its parameters. The arguments are as in `statement_of`."""
    return statement_of(
        query,
        schema=settings.schema,
        vector_schema=connection.vector_schema,
        kind=connection.index_kind,
        partitions=connection.partitions,
        exactly=exactly,
        exact_rows=settings.exact_rows,
        ef_search=settings.ef_search,
        chunks=chunks,
        scans_text=scans_text,
        hides_expired=hides_expired,
    )

"""Follows the replay on replicas after writes of this process, so that reads of the same tenant see these writes.

After a write, ragcore asks the primary for its position in the log, which takes one more round trip. While such writes are remembered, a background task asks
each replica for the position that it has replayed. So a read only compares two numbers, and needs no further round trip.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

import anyio
import asyncpg

from ragcore.errors import NotOpen, RagcoreError
from ragcore.lifecycle.owner import Owner
from ragcore.resilience import deadline
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.recent_writes import RecentWrites
from ragcore.store.postgres.replica import Replica
from ragcore.store.postgres.replica_inspection import ReplicaInspection
from ragcore.store.postgres.server import Server

__all__ = ["Replication"]

T = TypeVar("T")

# Seconds between two requests to a replica while writes are remembered, and after a request that failed.
POLL_SECONDS, PAUSE_SECONDS = 0.05, 1.0
# Largest number of seconds for a request to a replica.
ANSWER_SECONDS = 1.0
# A replica that was promoted no longer replays; its own writes continue the log. At the beginning of a page, until the next write, the primary's position is
# after the page's header of at most 40 bytes, and a replica's position is before it. No record ends within the header, so both count as its beginning.
POSITION = """
    select position - case when position % page <= 40 then position % page else 0 end
    from (
        select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end - '0/0'::pg_lsn as position,
               current_setting('wal_block_size')::numeric as page
    ) as log
"""


class Calling(Protocol):
    """Runs work on the primary."""

    async def __call__(self, work: Callable[[PooledConnection], Awaitable[T]], /) -> T: ...


class Replication:
    """Knows which replicas have replayed the last writes of this process.

    Args:
        replicas: the replicas.
        seconds: the longest time for which a write is remembered. 0: no write is remembered.
    """

    def __init__(self, replicas: Sequence[Replica], seconds: float) -> None:
        self._replicas = replicas
        self._seconds = seconds
        self._writes = RecentWrites(seconds)
        self._followed: set[Replica] = set()

    def needed(self, tenants: Sequence[str]) -> float:
        """Return the position that a replica must have replayed to answer a read of these tenants; 0 if any replica may answer."""
        return self._writes.needed(tenants)

    async def noting(
        self, tenant: str, work: Callable[[PooledConnection], Awaitable[T]], call: Calling, owner: Owner
    ) -> T:
        """Run a write of a tenant through `call`, and remember its position in the log.

        Args:
            tenant: the tenant.
            work: the write; it has committed when it returns.
            call: runs work on the primary.
            owner: the owner of background work.
        """
        if not self._seconds:
            return await call(work)
        began = False
        position: float | None = None

        async def noted(connection: PooledConnection) -> T:
            nonlocal began, position
            began = True
            result = await work(connection)
            position = await _position(connection)
            return result

        try:
            return await call(noted)
        except BaseException:
            position = None  # the write may have been committed nevertheless
            raise
        finally:
            if began:
                self._writes.add(tenant, position)
                self._follow_all(owner)

    async def report(self, primary: Server) -> tuple[ReplicaInspection, ...]:
        """Inspect each replica, and measure how far it lags behind the primary."""
        found: dict[int, ReplicaInspection] = {}
        written = await _ask(primary)

        async def one(number: int, replica: Replica) -> None:
            address, breaker = str(replica.address), replica.policy.breaker()
            state = None if breaker is None else breaker.state
            try:
                with replica.in_time():
                    inspection = await replica.inspect(replica.policy)
                    replayed = await _ask(replica)
            except RagcoreError as error:
                found[number] = ReplicaInspection(address=address, breaker=state, error=str(error))
                return
            lag = None if written is None or replayed is None else max(0, int(written - replayed))
            found[number] = ReplicaInspection(
                address=address,
                breaker=state,
                role=inspection.role,
                server_version=inspection.server_version,
                in_recovery=inspection.in_recovery,
                lag_bytes=lag,
                problems=tuple(inspection.replica_findings(address)),
            )

        async with anyio.create_task_group() as group:
            for number, replica in enumerate(self._replicas):
                group.start_soon(one, number, replica)
        return tuple(found[number] for number in sorted(found))

    def _follow_all(self, owner: Owner) -> None:
        for replica in self._replicas:
            if replica not in self._followed:
                # If the store was closed meanwhile, no call reads from it.
                with suppress(NotOpen):
                    owner.spawn(partial(self._follow, replica), name=f"following the replica {replica.address}")
                    self._followed.add(replica)

    async def _follow(self, replica: Replica) -> None:
        """Ask a replica for its position while writes are remembered."""
        try:
            while self._writes and not replica.pool.is_closing:
                replayed = await _ask(replica)
                if replayed is not None:
                    replica.replayed = replayed
                    self._writes.replayed(min(one.replayed for one in self._replicas))
                await anyio.sleep(PAUSE_SECONDS if replayed is None else POLL_SECONDS)
        finally:
            self._followed.discard(replica)


async def _ask(server: Server) -> float | None:
    """Return the position of a server, bypassing its policy; None if it does not answer in time."""
    try:
        with deadline(ANSWER_SECONDS):
            return await server.pool.run(_position)
    except (RagcoreError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError):
        return None


async def _position(connection: PooledConnection) -> float | None:
    """Return the position in the log after the last write, or after the last replay; None if the server does not report it."""
    # Some cloud services have no such functions. The write must not fail there.
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        position = await connection.fetchval(POSITION)
        return None if position is None or not math.isfinite(position) else int(position)
    return None

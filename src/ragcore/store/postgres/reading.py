"""Decides which server answers a read, and asks the next one if a server fails."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import anyio

from ragcore.errors import CircuitOpen, DeadlineExceeded, NotOpen, Overloaded, StoreError
from ragcore.events import emit
from ragcore.resilience import Policy, deadline
from ragcore.resilience.deadline import share
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.replica import Replica
from ragcore.store.postgres.replication import Replication
from ragcore.store.postgres.server import Server

__all__ = ["Reading"]

T = TypeVar("T")

# Number of replicas that fail before the primary is asked. A replica that refuses a read immediately does not count.
MOST_FAILED = 2
# Share of the remaining time for a replica, its largest number of seconds, and the share for the primary if it is not the last server.
SHARE, MOST_SECONDS, PRIMARY_SHARE = 0.4, 5.0, 0.6
# A replica that fails within this share of its time, such as one that loses a connection, may work at the next attempt.
QUICK = 0.1
# Errors after which another server may answer. Other errors of the primary would be the same everywhere.
NOT_ANSWERED = (StoreError, CircuitOpen, Overloaded, DeadlineExceeded)


class Reading:
    """Runs reads on replicas first, and on the primary if no replica answers.

    A server answers a read only if it has this process's last writes of the read's tenants. If no such server answers, not even the primary, another replica
    may answer.

    Args:
        primary: the primary.
        replicas: the replicas.
        replication: knows which replicas have the last writes.
    """

    def __init__(self, primary: Server, replicas: Sequence[Replica], replication: Replication) -> None:
        self._primary = primary
        self._replicas = replicas
        self._replication = replication

    async def call(
        self,
        work: Callable[[PooledConnection], Awaitable[T]],
        *,
        stage: str,
        policy: Policy,
        tenants: Sequence[str],
    ) -> T:
        """Run `work` on the first server that answers, each through its policy.

        Args:
            work: the work; it only reads.
            stage: stage of the call, for its errors.
            policy: the policy of the primary.
            tenants: the tenants whose rows are read.

        Raises:
            RagcoreError: the error of the primary, because no server answers.
        """

        async def ask(server: Server) -> T:
            return await server.call(work, stage=stage, policy=server.policy if isinstance(server, Replica) else policy)

        breaker = policy.breaker()
        primary_is_free = _has_place(policy) and (breaker is None or breaker.state == "closed")
        return await self._first_answer(ask, self._in_order(tenants, primary_is_free=primary_is_free))

    async def call_directly(self, work: Callable[[PooledConnection], Awaitable[T]], *, tenants: Sequence[str]) -> T:
        """Run `work` on the first server that answers, bypassing the policies. Errors of the driver are raised unchanged."""
        servers = self._in_order(tenants, primary_is_free=False)
        return await self._first_answer(lambda server: server.call_directly(work), servers)

    async def _first_answer(self, ask: Callable[[Server], Awaitable[T]], servers: Iterable[Server]) -> T:
        waiting = deque(servers)
        failure: Exception | None = None
        failed = 0
        while waiting:
            server = waiting.popleft()
            is_primary = server is self._primary
            if not is_primary and failed >= MOST_FAILED:
                continue
            if is_primary and not waiting:  # the last server gets all of the remaining time
                return await ask(server)
            seconds = share(PRIMARY_SHARE, most=math.inf) if is_primary else share(SHARE, most=MOST_SECONDS)
            if not waiting:
                seconds = share(1.0, most=math.inf)
            if seconds <= 0:
                continue
            began = anyio.current_time()
            try:
                with deadline(seconds):
                    return await ask(server)
            except NotOpen:
                raise
            except Exception as error:
                if is_primary:
                    if not isinstance(error, (*NOT_ANSWERED, OSError)):
                        raise
                    failure, failed = error, 0
                    continue
                if isinstance(error, CircuitOpen):
                    continue
                emit("replica.failed", str(server.address), error=type(error).__name__)
                quick = anyio.current_time() - began < QUICK * seconds
                if failure is None and (quick or isinstance(error, Overloaded)):
                    waiting.append(server)  # asked again if the primary does not answer
                failed += not isinstance(error, Overloaded)
        # No time was left to ask the primary. Ask it now, so that its policy raises the error.
        if failure is None:
            return await ask(self._primary)
        raise failure

    def _in_order(self, tenants: Sequence[str], *, primary_is_free: bool) -> list[Server]:
        """Return the servers in the order in which they are asked: the least busy replica first, at random among equals."""
        by_load: list[Replica] = sorted(self._replicas, key=lambda replica: (replica.busy, random.random()))
        needed = self._replication.needed(tenants)
        current = [replica for replica in by_load if replica.replayed >= needed]
        behind = [replica for replica in by_load if replica.replayed < needed]
        # A read does not wait in a replica's queue while the primary has free places: the replica may hang.
        if primary_is_free and not any(_has_place(replica.policy) for replica in current):
            return [self._primary, *current, *behind]
        return [*current, self._primary, *behind]


def _has_place(policy: Policy) -> bool:
    """Whether a call need not wait for a place."""
    bulkhead = policy.bulkhead
    return bulkhead is None or (bulkhead.inside < bulkhead.limit and not bulkhead.waiting)

"""Decides which server answers a read, and asks the next one if a server fails."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

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

# Largest number of replicas that are asked before the primary. A replica that its breaker refuses is not asked.
MOST_ASKED = 2
# Share of the remaining time for a server if another one is left, and the largest number of seconds.
SHARE, MOST_SECONDS = 0.4, 5.0
# Errors after which another server may answer. Other errors of the primary would be the same everywhere.
NOT_ANSWERED = (StoreError, CircuitOpen, Overloaded, DeadlineExceeded)


class Reading:
    """Runs reads on replicas first, and on the primary if no replica answers.

    A read is answered by a server that has this process's last writes of its tenants. Only if none of these servers answers, also not the primary, another
    replica may answer.

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
            RagcoreError: the error of the primary, if no server answers.
        """

        async def ask(server: Server) -> T:
            return await server.call(work, stage=stage, policy=server.policy if isinstance(server, Replica) else policy)

        return await self._first_answer(ask, tenants)

    async def call_directly(self, work: Callable[[PooledConnection], Awaitable[T]], *, tenants: Sequence[str]) -> T:
        """Run `work` on the first server that answers, bypassing the policies. Errors of the driver are raised unchanged."""
        return await self._first_answer(lambda server: server.call_directly(work), tenants)

    async def _first_answer(self, ask: Callable[[Server], Awaitable[T]], tenants: Sequence[str]) -> T:
        servers = self._in_order(tenants)
        failure: Exception | None = None
        asked = 0
        for number, server in enumerate(servers):
            primary = server is self._primary
            if not primary and asked >= MOST_ASKED:
                continue
            # The last server has all of the remaining time.
            if number == len(servers) - 1 and primary:
                return await ask(server)
            seconds = share(SHARE, most=MOST_SECONDS)
            if seconds <= 0:
                continue
            asked += 1
            try:
                with deadline(seconds):
                    return await ask(server)
            except NotOpen:
                raise
            except Exception as error:
                if primary:
                    failure, asked = error, 0
                    if not isinstance(error, (*NOT_ANSWERED, OSError)):
                        raise
                elif isinstance(error, CircuitOpen):
                    asked -= 1
                else:
                    emit("replica.failed", str(server.address), error=type(error).__name__)
        assert failure is not None  # the primary is asked always
        raise failure

    def _in_order(self, tenants: Sequence[str]) -> list[Server]:
        """Return the servers in the order in which they are asked: the least busy one first, at random among equals."""
        by_load: list[Replica] = sorted(self._replicas, key=lambda replica: (replica.busy, random.random()))
        needed = self._replication.needed(tenants)
        if not needed:
            return [*by_load, self._primary]
        current = [replica for replica in by_load if replica.replayed >= needed]
        behind = [replica for replica in by_load if replica.replayed < needed]
        return [*current, self._primary, *behind]

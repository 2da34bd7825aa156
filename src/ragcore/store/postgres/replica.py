"""A server that only answers reads. It copies the primary, and may lag behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ragcore.errors import ConfigurationError
from ragcore.resilience import Bulkhead, CircuitBreaker, Policy, deadline
from ragcore.resilience.deadline import Deadline, share
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.dsn import Address
from ragcore.store.postgres.finding import Finding
from ragcore.store.postgres.inspection import Inspection
from ragcore.store.postgres.server import Server, ServerSettings
from ragcore.store.postgres.translate import judge_replica

__all__ = ["ATTEMPT_SECONDS", "Replica", "replica_policy"]

# Largest number of seconds that a read waits for one replica before it asks the next server.
ATTEMPT_SECONDS = 5.0


def replica_policy(address: Address, *, pool_size: int, queue: int) -> Policy:
    """Return the policy of a replica: one attempt, because another server can answer, and a breaker that opens and probes early."""
    return Policy(
        f"replica {address}",
        attempt_timeout=ATTEMPT_SECONDS,
        bulkhead=Bulkhead(pool_size, queue=queue),
        retry=False,
        # It opens early, because each failure costs the caller time, and another server can answer. It probes early, because a restart takes seconds.
        breaker=CircuitBreaker(minimum_throughput=5, break_duration=1.0, max_break_duration=30.0),
    )


class Replica(Server):
    """A server that only answers reads.

    Attributes:
        policy: the policy of reads of this replica.
        replayed: the position in the primary's log up to which the replica had replayed it when it was last asked; 0 if unknown.
    """

    policy: Policy
    replayed: float

    def __init__(self, settings: ServerSettings, address: Address, policy: Policy) -> None:
        # A call does not wait for a replica that restarts: another server answers.
        super().__init__(settings, address, on=judge_replica, away_seconds=0.0)
        self.policy = policy
        self.replayed = 0.0

    @property
    def busy(self) -> int:
        """Number of reads that run or wait for a place."""
        bulkhead = self.policy.bulkhead
        return 0 if bulkhead is None else bulkhead.inside + bulkhead.waiting

    def in_time(self) -> Deadline:
        """Return a deadline for a request to this replica, so that a replica that hangs leaves time for the others."""
        return deadline(max(0.001, share(0.5, most=ATTEMPT_SECONDS)))

    def snapshot(self) -> Mapping[str, Any]:
        """Return the use of the pool and the state of the breaker as serialisable data."""
        breaker = self.policy.breaker()
        return {
            "size": self.pool.size,
            "in_use": self.pool.in_use,
            "idle": self.pool.idle,
            "breaker": None if breaker is None else breaker.state,
        }

    async def _use_collection(self, connection: PooledConnection) -> None:
        # A replica is read-only, so only the primary can put another collection of the group into use.
        raise ConfigurationError(
            f"the replica at {self.address} uses another collection than {self._settings.schema}: it may lag behind the primary"
        )

    def _findings(self, found: Inspection) -> list[Finding]:
        return found.replica_findings(str(self.address))

    def _unready(self, error: Exception) -> str:
        return f"replica.unready: reads go to other servers until the replica is ready: {error}"

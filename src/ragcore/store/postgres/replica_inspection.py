"""`ReplicaInspection`: the state of a replica, as the application's role sees it."""

from __future__ import annotations

from dataclasses import dataclass

from ragcore.store.postgres.finding import Finding
from ragcore.value import Value

__all__ = ["ReplicaInspection"]

# A lag above this number of bytes of the log is reported. It is four segments.
LARGE_LAG = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaInspection(Value):
    """The state of a replica.

    Attributes:
        address: host, port and database.
        breaker: state of its circuit breaker: "closed", "open", "half_open" or "isolated"; None if its policy has none.
        error: the reason why it can't be used; None if it can.
        role, server_version: name of the role, and version of PostgreSQL; None if it can't be used.
        in_recovery: whether the server is a standby; None if it can't be used.
        lag_bytes: bytes of the primary's log that it has not replayed yet; None if unknown.
        problems: the problems that the inspection of the replica found.
    """

    address: str
    breaker: str | None = None
    error: str | None = None
    role: str | None = None
    server_version: str | None = None
    in_recovery: bool | None = None
    lag_bytes: int | None = None
    problems: tuple[Finding, ...] = ()

    def findings(self) -> list[Finding]:
        """Return the problems of the replica; [] if there are none. Each message begins with the replica's address."""
        found = list(self.problems)
        if self.error is not None:
            found.append(
                Finding("warning", f"the replica {self.address} can't be used, so other servers answer: {self.error}")
            )
        if self.lag_bytes is not None and self.lag_bytes > LARGE_LAG:
            found.append(
                Finding(
                    "warning",
                    f"the replica {self.address} lags behind the primary by {self.lag_bytes / 2**20:,.0f} MiB of its log, so searches there find old "
                    "documents: look at pg_stat_replication on the primary, and at pg_is_wal_replay_paused() on the replica",
                )
            )
        return found

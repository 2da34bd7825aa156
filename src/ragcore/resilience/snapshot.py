"""Snapshots: frozen, typed and serialisable values with the current state of each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ragcore.value import Value

__all__ = [
    "BreakerSnapshot",
    "BulkheadSnapshot",
    "PolicySnapshot",
    "RetryBudgetSnapshot",
    "SingleFlightSnapshot",
    "Snapshot",
]


class Snapshot(Value):
    """The base class of all snapshots. `to_dict()` returns JSON-ready data, with nested snapshots. `snapshot["name"]` is the same as `snapshot.name`."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadSnapshot(Snapshot):
    """The state of a bulkhead.

    Attributes:
        name: the bulkhead's name.
        limit, inside: concurrent calls, the limit and the current number.
        queue, waiting: callers in the queue, the limit and the current number.
        flows: flows that have a call under way or in the queue.
        admitted, rejected: calls so far.
        service_time: seconds that a call takes; None while unknown.
    """

    name: str
    limit: int
    inside: int
    queue: int
    waiting: int
    flows: int
    admitted: int
    rejected: int
    service_time: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSnapshot(Snapshot):
    """The state of a circuit breaker.

    Attributes:
        name: the breaker's name.
        state: "closed", "open", "half_open" or "isolated".
        retry_after: seconds until the next probe; None if the breaker is not open or no event loop runs.
        window_calls, window_failures, window_slow: outcomes in the sliding window.
        probes_out: probes under way.
        flows_apart: flows that are set apart: only their calls are refused.
        success, failure, slow, neutral, ignored, rejected: calls so far.
    """

    name: str
    state: str
    retry_after: float | None
    window_calls: int
    window_failures: int
    window_slow: int
    probes_out: int
    flows_apart: int
    success: int
    failure: int
    slow: int
    neutral: int
    ignored: int
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudgetSnapshot(Snapshot):
    """The state of a retry budget.

    Attributes:
        balance: retries that are possible now.
        reserve, ratio: the settings.
        spent, refused: retries so far.
    """

    balance: float
    reserve: float
    ratio: float
    spent: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySnapshot(Snapshot):
    """The state of a policy.

    Attributes:
        name: the dependency's name.
        calls, retries: numbers so far.
        paused_for: seconds until the dependency's longest pause is over; None if no event loop runs.
        breaker, bulkhead, retry_budget: the snapshots of its parts; None for a part that it doesn't have.
        keys: the snapshots of the breakers by key.
    """

    name: str
    calls: int
    retries: int
    paused_for: float | None
    breaker: BreakerSnapshot | None
    keys: Mapping[str, BreakerSnapshot] = field(hash=False)
    bulkhead: BulkheadSnapshot | None
    retry_budget: RetryBudgetSnapshot | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleFlightSnapshot(Snapshot):
    """The state of a single flight.

    Attributes:
        name: its name.
        flying: flights under way.
        led, joined: callers that began a flight, and callers that joined one, so far.
    """

    name: str
    flying: int
    led: int
    joined: int

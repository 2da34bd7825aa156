"""The state of each piece of the machinery at one moment, to show and to serialise: frozen and typed, a class for each piece."""

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
    """What all snapshots share. `to_dict()` is JSON-ready, nested snapshots included; `snapshot["name"]` is `snapshot.name`."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadSnapshot(Snapshot):
    """A bulkhead.

    Attributes:
        limit, inside: calls at once, allowed and under way.
        queue, waiting: callers in the queue, allowed and there.
        flows: that have a call under way or wait for one.
        admitted, rejected: calls so far.
        service_time: seconds that a call takes; None while nothing is known.
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
    """A circuit breaker.

    Attributes:
        state: "closed", "open", "half_open" or "isolated".
        retry_after: seconds until it asks again; None where it isn't open, or where no event loop runs.
        window_calls, window_failures, window_slow: outcomes in the sliding window.
        probes_out: probes under way.
        flows_apart: flows for which alone it is open.
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
    """A retry budget.

    Attributes:
        balance: retries that it would allow now.
        reserve, ratio: as set.
        spent, refused: retries so far.
    """

    balance: float
    reserve: float
    ratio: float
    spent: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySnapshot(Snapshot):
    """A policy.

    Attributes:
        calls, retries: so far.
        paused_for: seconds that the dependency still wants to be left alone; None where no event loop runs.
        breaker, bulkhead, retry_budget: its parts'; None for what it doesn't have.
        keys: the breakers of single keys.
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
    """A single flight.

    Attributes:
        flying: flights under way.
        led, joined: callers that began a flight, and callers that shared one, so far.
    """

    name: str
    flying: int
    led: int
    joined: int

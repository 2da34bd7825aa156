"""Who waits in a queue before a circuit breaker: told when it opens, since the wait would be in vain."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["Sleepers", "Waking"]


class Sleepers:
    """Those who wait, each with its flow. They are in here for the length of a `Waking` block."""

    __slots__ = ("_flows",)

    def __init__(self) -> None:
        self._flows: dict[Callable[[], object], str] = {}

    def add(self, wake: Callable[[], object], flow: str) -> None:
        """One more."""
        self._flows[wake] = flow

    def discard(self, wake: Callable[[], object]) -> None:
        """One less; it may have left before."""
        self._flows.pop(wake, None)

    def wake(self, flow: str | None) -> None:
        """Those of a flow, or all."""
        for wake, whose in tuple(self._flows.items()):  # a copy: who wakes may leave at once
            if flow is None or whose == flow:
                wake()


class Waking:
    """For the length of its block `wake` is called when one of the breakers opens. A class, since a generator costs each waiting call twice as much."""

    __slots__ = ("_flow", "_sleepers", "_wake")

    def __init__(self, sleepers: Iterable[Sleepers | None], wake: Callable[[], object], flow: str) -> None:
        self._sleepers = sleepers
        self._wake = wake
        self._flow = flow

    def __enter__(self) -> None:
        for sleepers in self._sleepers:
            if sleepers is not None:
                sleepers.add(self._wake, self._flow)

    def __exit__(self, *exc: object) -> None:
        for sleepers in self._sleepers:
            if sleepers is not None:
                sleepers.discard(self._wake)

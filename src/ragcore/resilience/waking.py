"""Wakes callers that wait in a queue when a circuit breaker opens, so that they don't wait for a dependency that is down."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["Sleepers", "Waking"]


class Sleepers:
    """The waiting callers, each with its flow. A caller is registered for the time of its `Waking` block."""

    __slots__ = ("_flows",)

    def __init__(self) -> None:
        self._flows: dict[Callable[[], object], str] = {}

    def add(self, wake: Callable[[], object], flow: str) -> None:
        """Register a caller."""
        self._flows[wake] = flow

    def discard(self, wake: Callable[[], object]) -> None:
        """Remove a caller. It may already be removed."""
        self._flows.pop(wake, None)

    def wake(self, flow: str | None) -> None:
        """Wake the callers of a flow; None: all callers."""
        for wake, waiting_flow in tuple(self._flows.items()):  # a copy, because a woken caller may be removed at once
            if flow is None or waiting_flow == flow:
                wake()


class Waking:
    """Calls `wake` if one of the breakers opens during its block. It is a class because a generator would cost twice as much for each waiting call."""

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

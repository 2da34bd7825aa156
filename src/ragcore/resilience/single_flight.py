"""Single flight: equal concurrent work is done once and shared.

The work belongs to an owner task, not to whoever came first: a leader's cancellation doesn't harm its followers. Each waiter leaves at its own
deadline, and the flight ends when the last of them leaves, so it has the latest of their deadlines. Errors are delivered, never kept. When the work
waits in a queue of ours, so do all who wait for it: no limit on the dependency's silence runs for any of them.

Source: golang.org/x/sync/singleflight (what it is), and its issues for the traps: the leader's context, a newcomer on a cancelled flight.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context, ContextVar
from typing import Any, TypeVar

import anyio

from ragcore.events import emit
from ragcore.lifecycle.part import Part
from ragcore.resilience.flow import current_flow
from ragcore.resilience.patience import in_line, patience_in_force
from ragcore.resilience.snapshot import SingleFlightSnapshot

__all__ = ["SingleFlight"]

T = TypeVar("T")


# The flights that the work under way belongs to.
_flying: ContextVar[frozenset[tuple[SingleFlight, Hashable]]] = ContextVar("ragcore.flying", default=frozenset())


class SingleFlight(Part):
    """Shares equal work. What is shared is shared by reference, so results must not be changed.

    The key must name all that the result depends on: the tenant where data is a tenant's, the model, the text.

    Invariant: a flight stands in `_flights` exactly as long as a newcomer may join it: until it has landed, or until its last waiter leaves, which takes
    it out and cancels it in one step.

    Example:
        >>> async def main() -> None:
        ...     async with SingleFlight() as flights:
        ...         async def work() -> int:
        ...             return 42
        ...         assert await flights.call("answer", work) == 42
        >>> anyio.run(main)
    """

    def __init__(self, *, name: str = "") -> None:
        self.name = name
        self._flights: dict[Hashable, _Flight] = {}
        self._led = 0
        self._joined = 0

    async def call(self, key: Hashable, fn: Callable[[], Awaitable[T]], /) -> T:
        """The result of `fn`, or of the flight with this key that is under way.

        What `fn` raises comes out at each waiter.

        Raises:
            NotOpen: outside of `async with`.
        """
        owner = self._check_open()
        if (self, key) in _flying.get():
            raise RuntimeError(f"the flight {key!r} would wait for itself: its work calls for the same key")
        flight = self._flights.get(key)
        if flight is None:
            leading = flight = _Flight()
            owner.spawn(lambda: self._fly(key, leading, fn), name="flight", context=_context(_flying.get()))
            self._flights[key] = flight
            self._led += 1
            emit("flight.started", self.name)
        else:
            self._joined += 1
            emit("flight.joined", self.name)
        waiter = flight.join()
        try:
            await flight.landed.wait()
        finally:
            flight.leave(waiter)
            if not flight.waiters and not flight.landed.is_set():
                # In one step: a newcomer must not join a flight that is being cancelled.
                self._forget(key, flight)
                flight.scope.cancel()
                emit("flight.abandoned", self.name)
        return flight.result()  # type: ignore[no-any-return]  # a flight carries what its fn returned

    def snapshot(self) -> SingleFlightSnapshot:
        """Counters, serialisable."""
        return SingleFlightSnapshot(name=self.name, flying=len(self._flights), led=self._led, joined=self._joined)

    async def _fly(self, key: Hashable, flight: _Flight, fn: Callable[[], Awaitable[Any]]) -> None:
        _flying.set(_flying.get() | {(self, key)})  # the task's own context, which ends with it
        patience_in_force.set(flight)
        try:
            with flight.scope:
                flight.value = await fn()
                flight.done = True
        except Exception as error:
            flight.error = error
        finally:
            self._forget(key, flight)
            flight.landed.set()

    def _forget(self, key: Hashable, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def _context(flying: frozenset[tuple[SingleFlight, Hashable]]) -> Context:
    """A flight's own: nothing of its leader's but the flights that wait for it, and the flow that it is for."""
    context = Context()
    context.run(_flying.set, flying)
    context.run(current_flow.set, current_flow.get())
    return context


def own_copy(error: Exception) -> Exception:
    """A shared error for one of those that share it, whose traceback and call id are then its own; itself where it can't be copied."""
    try:
        copied = copy.copy(error)
    except Exception:
        return error.with_traceback(None)
    copied.__cause__ = error.__cause__ or error
    return copied


class _Flight:
    """The shared work. To the queues on its way it is the patience of all who wait for it.

    Invariant: `landed` is set once, with `value` and `done`, or with `error`; with neither, the work was cancelled.
    """

    __slots__ = ("_pauses", "done", "error", "landed", "scope", "value", "waiters")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.landed = anyio.Event()
        self.waiters: list[in_line] = []
        self.done = False
        self.value: Any = None
        self.error: Exception | None = None
        self._pauses = 0

    def join(self) -> in_line:
        waiter = in_line()
        self.waiters.append(waiter)
        if self._pauses:
            waiter.__enter__()
        return waiter

    def leave(self, waiter: in_line) -> None:
        waiter.__exit__()
        self.waiters.remove(waiter)

    @property
    def until(self) -> float:
        return math.inf

    @property
    def place_by(self) -> float:
        return math.inf

    def pause(self) -> None:
        self._pauses += 1
        for waiter in self.waiters:
            waiter.__enter__()

    def resume(self) -> None:
        self._pauses -= 1
        if not self._pauses:
            for waiter in self.waiters:
                waiter.__exit__()

    def heard(self) -> None:
        """A result comes whole or not at all."""

    def has_run_out(self, now: float) -> bool:
        return False

    def result(self) -> Any:
        if self.error is not None:
            raise own_copy(self.error)
        if not self.done:
            raise TimeoutError("the shared work was cancelled")
        return self.value

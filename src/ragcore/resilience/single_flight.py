"""Single flight: concurrent calls with the same key share one piece of work.

The work runs in an owner task, not in the task of the first caller, so the cancellation of one caller does not affect the others. Each caller leaves at
its own deadline. The work is cancelled when the last caller leaves, so its deadline is the latest of the callers' deadlines. An error is raised in all
callers and never cached. While the work waits in one of ragcore's queues, the limits on the dependency's silence are paused for all callers.

Source: golang.org/x/sync/singleflight for the pattern, and its issues for two traps: the first caller's context, and a new caller on a cancelled flight.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractContextManager
from contextvars import Context, ContextVar
from typing import Any, TypeVar

import anyio

from ragcore.events import emit
from ragcore.lifecycle.operations import current
from ragcore.lifecycle.part import Part
from ragcore.resilience.flow import current_flow
from ragcore.resilience.patience import in_line, patience_in_force
from ragcore.resilience.snapshot import SingleFlightSnapshot

__all__ = ["SingleFlight"]

T = TypeVar("T")


# The flights that the current work is part of.
_flying: ContextVar[frozenset[tuple[SingleFlight, Hashable]]] = ContextVar("ragcore.flying", default=frozenset())


class SingleFlight(Part):
    """Shares one piece of work between concurrent callers with the same key. All callers get the same object, so they must not change it.

    The key must contain everything that the result depends on, for example the tenant, the model and the text.

    Invariant: a flight is in `_flights` as long as a new caller may join it: until its work has ended, or until its last caller leaves. The last caller
    removes it and cancels it in one step.

    Examples:
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
        """Return the result of `fn`, or of the flight with this key that is under way.

        Args:
            key: everything that the result depends on.
            fn: does the work.

        Raises:
            NotOpen: the object is used outside `async with`.
            Exception: the error of `fn`, in each caller.
        """
        owner = self._check_open()
        if (self, key) in _flying.get():
            raise RuntimeError(f"the flight {key!r} would wait for itself: its work must not call the same key")
        flight = self._flights.get(key)
        if flight is None:
            leading = flight = _Flight()
            step = current().active()  # a trace shows the work as a part of its first caller's operation
            owner.spawn(lambda: self._fly(key, leading, fn, step), name="flight", context=_context(_flying.get()))
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
                # Remove and cancel the flight in one step, so that no new caller joins a flight that is being cancelled.
                self._forget(key, flight)
                flight.scope.cancel()
                emit("flight.abandoned", self.name)
        return flight.result()  # type: ignore[no-any-return]  # a flight holds the result of its fn

    def snapshot(self) -> SingleFlightSnapshot:
        """Return counters, serialisable."""
        return SingleFlightSnapshot(name=self.name, flying=len(self._flights), led=self._led, joined=self._joined)

    async def _fly(
        self, key: Hashable, flight: _Flight, fn: Callable[[], Awaitable[Any]], step: AbstractContextManager[None]
    ) -> None:
        _flying.set(_flying.get() | {(self, key)})  # in the task's own context, which ends with the task
        patience_in_force.set(flight)
        try:
            with step, flight.scope:
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
    """Return a new context for a flight. It takes only two values from the first caller's context: the flow, and the flights that wait for this one."""
    context = Context()
    context.run(_flying.set, flying)
    context.run(current_flow.set, current_flow.get())
    return context


def own_copy(error: Exception) -> Exception:
    """Return a copy of a shared error, so that each caller has its own traceback and call id; the error itself if it can't be copied."""
    try:
        copied = copy.copy(error)
    except Exception:
        return error.with_traceback(None)
    copied.__cause__ = error.__cause__ or error
    return copied


class _Flight:
    """The shared work of several callers. Queues see it as a `Pausable`, and it passes pauses on to all callers.

    Invariant: `landed` is set once, with `value` and `done`, or with `error`. If neither is set, the work was cancelled.
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
        """Do nothing: the work returns one complete result."""

    def has_run_out(self, now: float) -> bool:
        return False

    def result(self) -> Any:
        if self.error is not None:
            raise own_copy(self.error)
        if not self.done:
            raise TimeoutError("the shared work was cancelled")
        return self.value

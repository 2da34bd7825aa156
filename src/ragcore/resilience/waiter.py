"""The callers that wait for a place: a single waiter, and a flow with its waiters in order of arrival."""

from __future__ import annotations

import asyncio
import math

import anyio

from ragcore.errors import Overloaded
from ragcore.resilience.clock import running

__all__ = ["NEWEST", "Flow", "Waiter"]

# The weight of the newest service time in a moving average.
NEWEST = 0.2


class Flow:
    """The state of a flow in a bulkhead.

    Invariant: `waiting` holds its callers in order of arrival, because a dict keeps the order. So the oldest and the newest are found without a search.

    Attributes:
        name: the flow's name.
        inside: its calls that hold a place.
        waiting: its waiting callers, the oldest first.
        newest_first: whether it has more waiting callers than can be served in time.
        credit: the rest of its turn in deficit round robin; negative for a debt.
        turns: the number of places given to its waiting callers so far.
        served: the number of places that the bulkhead had given when this flow last got one.
        service_time: seconds that its calls take, as a moving average; 0 while unknown.
    """

    __slots__ = ("credit", "inside", "name", "newest_first", "served", "service_time", "turns", "waiting")

    name: str
    inside: int
    newest_first: bool
    credit: float
    turns: int
    served: int
    service_time: float

    def __init__(self, name: str) -> None:
        self.name = name
        self.inside = 0
        self.waiting: dict[Waiter, None] = {}
        self.newest_first = False
        self.credit = 0.0
        self.service_time = 0.0
        self.turns = 0
        self.served = 0

    def oldest(self) -> Waiter:
        """Return the caller that came first."""
        return next(iter(self.waiting))

    def newest(self) -> Waiter:
        """Return the caller that came last."""
        return next(reversed(self.waiting))

    def most_patient(self) -> Waiter:
        """Return the caller with the latest deadline. If several have the same, return the newest of them; if several have no deadline, the oldest."""
        latest = max(reversed(self.waiting), key=lambda waiter: waiter.when)
        if latest.when < math.inf:
            return latest
        return next(waiter for waiter in self.waiting if waiter.when == math.inf)

    def learn(self, service_time: float) -> None:
        """Update the moving average with the time of a call."""
        before = self.service_time or service_time
        self.service_time = before + NEWEST * (service_time - before)


class Waiter:
    """One caller in the queue.

    Invariant: a waiter waits, is `granted` or is `refused`. From `granted` it can only change to `refused`, by giving up. A waiter that is `woken` while it
    waits checks its breakers and continues to wait.

    Attributes:
        when: its deadline.
        by: the latest time at which a place is useful for it.
        flow: its flow.
        since: the time at which it joined the queue.
        granted: whether it has a place.
        refused: the error with which it was refused; None if it was not.
        left: the seconds to its deadline at the time when it got its place.
        needed: the bulkhead's service time when the waiter got its place, in seconds.
        woken: whether it was woken without a place.
    """

    __slots__ = ("_event", "_future", "by", "flow", "granted", "left", "needed", "refused", "since", "when", "woken")

    when: float
    by: float
    flow: Flow
    since: float
    granted: bool
    left: float
    needed: float
    woken: bool

    def __init__(self, when: float, flow: Flow, since: float, by: float) -> None:
        self.when = when
        self.by = by
        self.flow = flow
        self.since = since
        self.granted = self.woken = False
        self.refused: Overloaded | None = None
        self.left = math.inf
        self.needed = 0.0
        self._future: asyncio.Future[None] | None = None
        self._event: anyio.Event | None = None

    @property
    def sleeps(self) -> bool:
        """Return whether it still sleeps: it was neither granted a place nor woken nor refused."""
        return not (self.granted or self.woken) and self.refused is None

    def wake(self) -> None:
        """Wake it without a place, because its breaker may have opened."""
        self.woken = True
        self.end_sleep()

    def end_sleep(self) -> None:
        """End its sleep, because its state has changed."""
        if self._event is not None:
            self._event.set()
        elif self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def sleep(self, until: float) -> None:
        """Sleep until `end_sleep` is called, or until the point in time `until`.

        On asyncio it uses a future and a timer, which cost a third of a cancel scope and an event. Under load, every call waits here.
        """
        task, _ = running()
        if task is None:
            self._event = anyio.Event()
            with anyio.CancelScope(deadline=until):
                await self._event.wait()
            return
        loop = task.get_loop()
        self._future = future = loop.create_future()
        timer = None if until == math.inf else loop.call_at(until, self.end_sleep)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()

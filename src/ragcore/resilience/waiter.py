"""Who waits for a place: one caller, and a flow of them in the order in which they came."""

from __future__ import annotations

import asyncio
import math

import anyio

from ragcore.errors import Overloaded
from ragcore.resilience.clock import running

__all__ = ["NEWEST", "Flow", "Waiter"]

# Weight of the newest service time in a moving average.
NEWEST = 0.2


class Flow:
    """What a bulkhead knows of a flow.

    Invariant: `waiting` has its callers in the order in which they came, since a dict keeps it; so the oldest and the newest are found at no cost.

    Attributes:
        waiting: who waits, the oldest first.
        newest_first: there are more than can be served in time.
        credit: what is left of its turn.
        turns: places given to its waiting callers so far.
        served: how many places the bulkhead had given when this flow's caller got the last of its own.
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
        """The caller that came first."""
        return next(iter(self.waiting))

    def newest(self) -> Waiter:
        """The caller that came last."""
        return next(reversed(self.waiting))

    def most_patient(self) -> Waiter:
        """The caller with the latest deadline; of equal ones the newest, of those without a deadline the oldest."""
        latest = max(reversed(self.waiting), key=lambda waiter: waiter.when)
        if latest.when < math.inf:
            return latest
        return next(waiter for waiter in self.waiting if waiter.when == math.inf)

    def learn(self, service_time: float) -> None:
        """How long a call of this flow has taken."""
        before = self.service_time or service_time
        self.service_time = before + NEWEST * (service_time - before)


class Waiter:
    """One caller in the queue.

    Invariant: it waits, or it is `granted`, or it is `refused`; it leaves each state but the first only by giving up. `woken` while it waits, it looks
    around and goes on.

    Attributes:
        when: its deadline.
        by: when it wants a place at the latest.
        since: when it came.
        granted: it has a place.
        refused: it gets none; why.
        left: seconds to its deadline when it got its place.
        needed: seconds that calls took lately, then.
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
        """Whether nothing has happened to it yet."""
        return not (self.granted or self.woken) and self.refused is None

    def wake(self) -> None:
        """Let it look around: what it waits for may have become pointless."""
        self.woken = True
        self.stir()

    def stir(self) -> None:
        """Something has changed: it stops sleeping."""
        if self._event is not None:
            self._event.set()
        elif self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def sleep(self, until: float) -> None:
        """Until something changes, or until that point in time.

        On asyncio a future and a timer do it, at a third of what a cancel scope and an event cost: under load every call waits here.
        """
        task, _ = running()
        if task is None:
            self._event = anyio.Event()
            with anyio.CancelScope(deadline=until):
                await self._event.wait()
            return
        loop = task.get_loop()
        self._future = future = loop.create_future()
        timer = None if until == math.inf else loop.call_at(until, self.stir)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()

"""A bulkhead: limits concurrent calls, and queues further calls fairly and by what time they have left, as `fair_queue` tells.

Not built on `anyio.CapacityLimiter`: it knows neither a bounded queue nor deadlines nor flows, and wants one token per task.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

import anyio
import anyio.lowlevel

from ragcore.lifecycle.bound import expires_at
from ragcore.resilience.clock import clock
from ragcore.resilience.fair_queue import FairQueue
from ragcore.resilience.flow import current_flow
from ragcore.resilience.places import Places
from ragcore.resilience.snapshot import BulkheadSnapshot
from ragcore.resilience.waiter import Flow

__all__ = ["Bulkhead"]


class Bulkhead:
    """Allows `limit` concurrent calls and `queue` waiting ones, and serves flows in turn.

    Args:
        limit: concurrent calls, at least 1. It may be set while in use: a higher limit admits waiting callers at once, a lower one interrupts nobody.
        queue: waiting callers at most; default 4 × `limit`.
        name: in events and errors.

    A waiting caller is refused as soon as its remaining time is shorter than a call takes. The bulkhead learns this time from the calls. While a place
    is free and nobody waits, no caller is refused: a wrong estimate could not correct itself otherwise.

    If the queue is full and a flow holds less than its share of it, the flow with the most waiting callers loses one of them.

    Invariant: `_places` says who has a place, `line` who waits; they share the flows, and nobody waits while a place is free.

    Example:
        >>> limiter = Bulkhead(8, queue=32)
        >>> async def call() -> None:
        ...     async with limiter:
        ...         await anyio.sleep(0)
        >>> anyio.run(call)
    """

    line: FairQueue

    def __init__(self, limit: int, /, *, queue: int | None = None, name: str = "") -> None:
        if limit < 1 or (queue is not None and queue < 0):
            raise ValueError("limit is at least 1 and queue at least 0")
        self._places = Places(limit, name)
        self.line = FairQueue(self._places, most=4 * limit if queue is None else queue)

    @property
    def name(self) -> str:
        """In events and errors."""
        return self._places.name

    @name.setter
    def name(self, name: str) -> None:
        self._places.name = name

    @property
    def limit(self) -> int:
        """Calls at once."""
        return self._places.limit

    @limit.setter
    def limit(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("limit is at least 1")
        self._places.limit = limit
        self.line.let_in()

    @property
    def queue(self) -> int:
        """Callers that may wait."""
        return self.line.most

    @property
    def inside(self) -> int:
        """Calls under way."""
        return self._places.inside

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return self.line.waiting

    @property
    def service_time(self) -> float:
        """Seconds that a call takes, by the moving average; 0 while nothing is known."""
        return self._places.service_time

    def holds(self, flow: str | None = None) -> int:
        """Calls that a flow has under way; None: the flow in force."""
        found = self._places.flows.get(current_flow.get() if flow is None else flow)
        return 0 if found is None else found.inside

    def share(self, flow: str | None = None) -> int:
        """Places that a flow may hold while others wait; None: the flow in force."""
        found = self._places.of(flow)
        return math.ceil(self.limit / max(1, self.line.flows() + (not found.inside and not found.waiting)))

    def expected_wait(self) -> float:
        """Seconds that one more caller would wait if all were served in order, by the moving average of service times (Little's law)."""
        return self.line.expected_wait()

    def try_acquire(self, flow: str | None = None) -> bool:
        """Take a place if one is free and nobody waits for it.

        Args:
            flow: for whom; None: the flow in force.
        """
        return self.take(current_flow.get() if flow is None else flow) is not None

    def take(self, name: str) -> Flow | None:
        """As `try_acquire`, for a caller that keeps the flow to give the place back with: this is the way of every call that goes well."""
        places = self._places
        if places.inside >= places.limit or self.line.waiting:
            return None
        flow = places.flows.get(name) or places.of(name)
        # As `Places.take` has it, at the cost of no further call.
        if not flow.inside:
            places.holders += 1
        flow.inside += 1
        places.inside += 1
        places.admitted += 1
        return flow

    async def acquire(self, when: float = math.inf, *, flow: str | None = None) -> None:
        """Take a place, waiting for it.

        Args:
            when: the caller's deadline, on `anyio.current_time()`'s clock.
            flow: for whom; None: the flow in force.

        Raises:
            Overloaded: the queue is full, or the call can't be done by its deadline any more.
        """
        if self.try_acquire(flow):
            return
        # Nobody overtakes the queue: `try_acquire` gives no place while somebody waits.
        waiter = self.line.enqueue(when, flow)
        while not await self.line.wait(waiter):
            pass

    def release(self, service_time: float | None = None, *, flow: str | None = None, finished: bool = True) -> None:
        """Give a place back.

        Args:
            service_time: seconds that it was used for, to learn from; None: not worth learning.
            flow: who had it; None: the flow in force.
            finished: False: the call was cut short, so that it would have taken longer.
        """
        flows = self._places.flows
        found = flows.get(current_flow.get() if flow is None else flow)
        if found is None or not found.inside:  # given back under another name than it was taken: then by who has most
            found = max(flows.values(), key=lambda one: one.inside)
        self.line.give_back(found, service_time, finished, 0.0 if service_time is None else clock()())

    async def __aenter__(self) -> Self:
        await anyio.lowlevel.checkpoint()
        await self.acquire(expires_at())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.release()

    def snapshot(self) -> BulkheadSnapshot:
        """Limits, use and counters, serialisable."""
        places, line = self._places, self.line
        return BulkheadSnapshot(
            name=places.name,
            limit=places.limit,
            inside=places.inside,
            queue=line.most,
            waiting=line.waiting,
            flows=line.flows(),
            admitted=places.admitted,
            rejected=line.rejected,
            service_time=places.service_time or None,
        )

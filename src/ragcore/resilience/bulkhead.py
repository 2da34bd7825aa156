"""A bulkhead: limits concurrent calls and queues further calls, fairly and by their remaining time. `fair_queue` describes the order.

It is not built on `anyio.CapacityLimiter`, which has no bounded queue, no deadlines and no flows, and needs one token per task.
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
        limit: concurrent calls, at least 1. It may be changed in use: a higher limit admits waiting callers at once, a lower one interrupts no call.
        queue: the largest number of waiting callers; default 4 × `limit`.
        name: the name in events and errors.

    A waiting caller is refused as soon as its remaining time is shorter than a call takes. The bulkhead learns this time from the calls. While a place
    is free and the queue is empty, no caller is refused, so that a wrong estimate corrects itself.

    A full queue still accepts a caller whose flow has less than its share of the queue: the flow with the most waiting callers loses one of them.

    Invariant: `_places` counts the calls that have a place, and `line` holds the callers that wait. Both use the same `Flow` objects. No caller waits
    while a place is free.

    Examples:
        >>> limiter = Bulkhead(8, queue=32)
        >>> async def call() -> None:
        ...     async with limiter:
        ...         await anyio.sleep(0)
        >>> anyio.run(call)
    """

    line: FairQueue

    def __init__(self, limit: int, /, *, queue: int | None = None, name: str = "") -> None:
        if limit < 1 or (queue is not None and queue < 0):
            raise ValueError("limit must be at least 1 and queue at least 0")
        self._places = Places(limit, name)
        self.line = FairQueue(self._places, most=4 * limit if queue is None else queue)

    @property
    def name(self) -> str:
        """The name in events and errors."""
        return self._places.name

    @name.setter
    def name(self, name: str) -> None:
        self._places.name = name

    @property
    def limit(self) -> int:
        """The largest number of concurrent calls."""
        return self._places.limit

    @limit.setter
    def limit(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("limit must be at least 1")
        self._places.limit = limit
        self.line.let_in()

    @property
    def queue(self) -> int:
        """The largest number of waiting callers."""
        return self.line.most

    @property
    def inside(self) -> int:
        """The number of calls under way."""
        return self._places.inside

    @property
    def waiting(self) -> int:
        """The number of callers in the queue."""
        return self.line.waiting

    @property
    def service_time(self) -> float:
        """Seconds that a call takes, as a moving average; 0 while unknown."""
        return self._places.service_time

    def holds(self, flow: str | None = None) -> int:
        """Return how many calls a flow has under way; None: the current flow."""
        found = self._places.flows.get(current_flow.get() if flow is None else flow)
        return 0 if found is None else found.inside

    def share(self, flow: str | None = None) -> int:
        """Return how many places a flow may hold while other flows wait; None: the current flow."""
        found = self._places.of(flow)
        return math.ceil(self.limit / max(1, self.line.flows() + (not found.inside and not found.waiting)))

    def expected_wait(self) -> float:
        """Return the seconds that one more caller would wait if all were served in order, from the moving average of service times (Little's law)."""
        return self.line.expected_wait()

    def try_acquire(self, flow: str | None = None) -> bool:
        """Take a place if one is free and the queue is empty. Return whether it was taken.

        Args:
            flow: the flow of the call; None: the current flow.
        """
        return self.take(current_flow.get() if flow is None else flow) is not None

    def take(self, name: str) -> Flow | None:
        """Take a place as `try_acquire` does, and return the flow with which to give it back. This is the fast path."""
        places = self._places
        if places.inside >= places.limit or self.line.waiting:
            return None
        flow = places.flows.get(name) or places.of(name)
        # This code is the same as that of `Places.take`, without the cost of a call.
        if not flow.inside:
            places.holders += 1
        flow.inside += 1
        places.inside += 1
        places.admitted += 1
        return flow

    async def acquire(self, when: float = math.inf, *, flow: str | None = None) -> None:
        """Wait for a place and take it.

        Args:
            when: the caller's deadline, on `anyio.current_time()`'s clock.
            flow: the flow of the call; None: the current flow.

        Raises:
            Overloaded: the queue is full, or the call can't finish by its deadline.
        """
        if self.try_acquire(flow):
            return
        # No caller overtakes the queue, because `try_acquire` gives no place while a caller waits.
        waiter = self.line.enqueue(when, flow)
        while not await self.line.wait(waiter):
            pass

    def release(self, service_time: float | None = None, *, flow: str | None = None, finished: bool = True) -> None:
        """Give a place back.

        Args:
            service_time: seconds for which the place was used; they update the estimate. None: don't update it.
            flow: the flow that had the place; None: the current flow.
            finished: False if the call was cut short and would have taken longer.
        """
        flows = self._places.flows
        found = flows.get(current_flow.get() if flow is None else flow)
        # The place was acquired under another flow's name: take it from the flow with the most places.
        if found is None or not found.inside:
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
        """Return limits, usage and counters, serialisable."""
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

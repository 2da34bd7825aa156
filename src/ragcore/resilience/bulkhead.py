"""A bulkhead: so many calls at once, so many waiting in order, and no waiting without a chance.

Not built on `anyio.CapacityLimiter`: it knows neither a bounded queue nor deadlines, and wants one token per task.
"""

from __future__ import annotations

import math
from collections import deque
from types import TracebackType
from typing import Self

import anyio
import anyio.lowlevel

from ragcore.errors import Overloaded
from ragcore.events import emit
from ragcore.resilience.deadline import expires_at
from ragcore.resilience.snapshot import Snapshot

__all__ = ["Bulkhead"]

# Weight of the newest service time in the moving average that the expected wait is taken from.
NEWEST = 0.2


class Bulkhead:
    """At most `limit` at once; the next `queue` wait, first in first out; all others are refused at once.

    Args:
        limit: calls at once, at least 1. May be set while in use: more are let in at once, and nobody is thrown out.
        queue: how many may wait; default 4 × `limit`.
        name: in events and errors.

    A caller that would have to wait past its deadline, judged by how long calls have taken lately, is refused at once as well; but a
    place is never refused while nobody waits, so that an estimate that is wrong can mend itself.

    Example:
        >>> limiter = Bulkhead(8, queue=32)
        >>> async def call() -> None:
        ...     async with limiter:
        ...         await anyio.sleep(0)
        >>> anyio.run(call)
    """

    def __init__(self, limit: int, /, *, queue: int | None = None, name: str = "") -> None:
        if limit < 1 or (queue is not None and queue < 0):
            raise ValueError("limit is at least 1 and queue at least 0")
        self.name = name
        self.queue = 4 * limit if queue is None else queue
        self._limit = limit
        self._inside = 0
        self._waiters: deque[_Waiter] = deque()
        self._service_time = 0.0
        self._admitted = 0
        self._rejected = 0

    @property
    def limit(self) -> int:
        """Calls at once."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("limit is at least 1")
        self._limit = limit
        self._let_in()

    @property
    def inside(self) -> int:
        """Calls under way."""
        return self._inside

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._waiters)

    def expected_wait(self) -> float:
        """Seconds that the next in the queue would wait, by the moving average of service times (Little's law)."""
        if self._inside < self._limit and not self._waiters:
            return 0.0
        return (len(self._waiters) + 1) * self._service_time / self._limit

    def try_acquire(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        if self._inside < self._limit and not self._waiters:
            self._inside += 1
            self._admitted += 1
            return True
        return False

    async def acquire(self, when: float = math.inf) -> None:
        """Take a place, waiting for it in order.

        Args:
            when: the caller's deadline, on `anyio.current_time()`'s clock.

        Raises:
            Overloaded: the queue is full, or the wait would go past the deadline.
        """
        if self.try_acquire():
            return
        began = anyio.current_time()
        self._refuse_if_hopeless(when, began)
        waiter = _Waiter()
        self._waiters.append(waiter)
        emit("bulkhead.waiting", self.name, waiting=len(self._waiters))
        try:
            await waiter.turn.wait()
        except BaseException:
            if waiter.granted:  # cancelled in the moment of its turn: the place goes on to the next
                self._leave()
            else:
                self._waiters.remove(waiter)
            raise
        emit("bulkhead.admitted", self.name, waited=anyio.current_time() - began)

    def release(self, service_time: float | None = None) -> None:
        """Give the place back.

        Args:
            service_time: seconds that it was used for, to learn from; None: not worth learning (cancelled, refused).
        """
        if service_time is not None:
            before = self._service_time or service_time
            self._service_time = before + NEWEST * (service_time - before)
        self._leave()

    async def __aenter__(self) -> Self:
        await anyio.lowlevel.checkpoint()
        await self.acquire(expires_at())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.release()

    def snapshot(self) -> Snapshot:
        """Limits, use and counters, serialisable."""
        return Snapshot(
            name=self.name,
            limit=self._limit,
            inside=self._inside,
            queue=self.queue,
            waiting=len(self._waiters),
            admitted=self._admitted,
            rejected=self._rejected,
            service_time=self._service_time or None,
        )

    def _leave(self) -> None:
        self._inside -= 1
        if self._waiters:
            self._let_in()

    def _let_in(self) -> None:
        """Give free places to those who wait, in one step: nobody who comes meanwhile overtakes them."""
        while self._waiters and self._inside < self._limit:
            self._inside += 1
            self._admitted += 1
            self._waiters.popleft().grant()

    def _refuse_if_hopeless(self, when: float, now: float) -> None:
        wait = self.expected_wait()
        if len(self._waiters) >= self.queue:
            why = f"{self._inside} calls are under way and {len(self._waiters)} wait, which is all that may"
        elif self._waiters and now + wait > when:
            why = f"the wait would be about {wait:.1f} s, which is past the deadline"
        else:
            return
        self._rejected += 1
        emit("bulkhead.rejected", self.name, waiting=len(self._waiters), expected_wait=wait)
        dependency = self.name or "this dependency"
        raise Overloaded(
            f"{dependency} is overloaded: {why}; try again later or raise its limit",
            dependency=self.name,
            retry_after=max(wait, 0.1),
        )


class _Waiter:
    __slots__ = ("granted", "turn")

    def __init__(self) -> None:
        self.turn = anyio.Event()
        self.granted = False

    def grant(self) -> None:
        self.granted = True
        self.turn.set()

"""A bulkhead: limits concurrent calls, and queues further calls fairly and by what time they have left.

- Between flows: deficit round robin. While another flow waits, a flow holds at most its share of the places.
- Within a flow: the oldest caller first. If the flow has more callers than can be served in time, the newest first: it has the most time left, so
  each place goes to a caller that can still use it.
- A caller whose remaining time is shorter than recent calls took is refused at once.

Not built on `anyio.CapacityLimiter`: it knows neither a bounded queue nor deadlines nor flows, and wants one token per task.

Sources: M. Shreedhar, G. Varghese, "Efficient Fair Queuing Using Deficit Round Robin" (1996); B. Maurer, "Fail at Scale" (ACM Queue, 2015) for
adaptive LIFO. docs/explanation/resilience.md has the figures beside earliest deadline first.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

import anyio
import anyio.lowlevel

from ragcore.errors import Overloaded
from ragcore.events import emit, listening
from ragcore.lifecycle.bound import expires_at
from ragcore.resilience.clock import clock, now_if_any
from ragcore.resilience.flow import MOST_FLOWS, current_flow
from ragcore.resilience.snapshot import BulkheadSnapshot
from ragcore.resilience.waiter import NEWEST, Flow, Waiter

__all__ = ["Bulkhead"]

# An estimate that nothing has confirmed for so long, and for so many calls, is forgotten: what was learned in trouble is not believed for ever.
FORGET_SECONDS, FORGET_SERVICES = 30.0, 3.0
MUCH_QUICKER, MUCH_QUICKER_WEIGHT = 4.0, 0.5
# A caller is told this long before its deadline, so that it hears a reason rather than its own deadline.
BEFORE_DEADLINE = 0.01
# A flow whose calls take longer than the others' has fewer turns, within these bounds.
CHEAPEST, DEAREST = 0.25, 4.0
# While the newest come first, each so-manieth place of a flow goes to the caller with the latest deadline.
PATIENT_EVERY = 4


class Bulkhead:
    """Allows `limit` concurrent calls and `queue` waiting ones, and serves flows in turn.

    Args:
        limit: concurrent calls, at least 1. It may be set while in use: a higher limit admits waiting callers at once, a lower one interrupts nobody.
        queue: waiting callers at most; default 4 × `limit`.
        name: in events and errors.

    A waiting caller is refused as soon as its remaining time is shorter than a call takes. The bulkhead learns this time from the calls. While a place
    is free and nobody waits, no caller is refused: a wrong estimate could not correct itself otherwise.

    If the queue is full and a flow holds less than its share of it, the flow with the most waiting callers loses one of them.

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
        self._waiting = 0
        self._flows: dict[str, Flow] = {}
        self._ring: dict[Flow, None] = {}  # flows with waiters
        self._holders = 0  # flows with calls under way
        self._service_time = 0.0
        self._forget_at = math.inf
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
        return self._waiting

    @property
    def service_time(self) -> float:
        """Seconds that a call takes, by the moving average; 0 while nothing is known."""
        return self._service_time

    def holds(self, flow: str | None = None) -> int:
        """Calls that a flow has under way; None: the flow in force."""
        found = self._flows.get(current_flow.get() if flow is None else flow)
        return 0 if found is None else found.inside

    def share(self, flow: str | None = None) -> int:
        """Places that a flow may hold while others wait; None: the flow in force."""
        found = self._flow(flow)
        flows = self._holders + sum(1 for other in self._ring if not other.inside)
        return math.ceil(self._limit / max(1, flows + (not found.inside and not found.waiting)))

    def expected_wait(self) -> float:
        """Seconds that one more caller would wait if all were served in order, by the moving average of service times (Little's law)."""
        if self._inside < self._limit and not self._waiting:
            return 0.0
        return (self._waiting + 1) * self._service_time / self._limit

    def try_acquire(self, flow: str | None = None) -> bool:
        """Take a place if one is free and nobody waits for it.

        Args:
            flow: for whom; None: the flow in force.
        """
        return self.take(current_flow.get() if flow is None else flow) is not None

    def take(self, name: str) -> Flow | None:
        """As `try_acquire`, for a caller that keeps the flow to give the place back with: this is the way of every call that goes well."""
        if self._inside >= self._limit or self._waiting:
            return None
        flow = self._flows.get(name) or self._flow(name)
        if not flow.inside:
            self._holders += 1
        flow.inside += 1
        self._inside += 1
        self._admitted += 1
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
        waiter = self.enqueue(when, flow)
        while not await self.wait(waiter):
            pass

    def enqueue(self, when: float, flow: str | None = None, *, by: float = math.inf) -> Waiter:
        """A place in the queue, to be waited for with `wait`.

        Args:
            when: the caller's deadline.
            flow: for whom; None: the flow in force.
            by: when the caller wants a place at the latest, since it has another way.

        Raises:
            Overloaded: the queue is full, or there is no chance by the deadline.
        """
        now = clock()()
        found = self._flow(flow)
        if now > self._forget_at:
            self._service_time = 0.0
        if when - now < self._service_time:
            raise self._refusal(
                f"recent calls took {self._service_time:.1f} s and only {max(0.0, when - now):.1f} s are left, while the concurrency limit is "
                f"reached ({self._inside} running, {self._waiting} waiting)"
            )
        if self._waiting >= self.queue:
            self._make_room(found, now)
        waiter = Waiter(when, found, now, by)
        found.waiting[waiter] = None
        self._waiting += 1
        self._ring.setdefault(found)
        if not found.newest_first and not self._fits(found, waiter, now):
            found.newest_first = True
        emit("bulkhead.waiting", self.name, waiting=self._waiting)
        self._let_go_of_the_hopeless(found, now)
        return waiter

    async def wait(self, waiter: Waiter) -> bool:
        """Wait for a place: True; or until `Waiter.wake` is called: False, and it still has its place in the queue.

        Raises:
            Overloaded: it has been refused, or its time no longer suffices.
        """
        try:
            while waiter.sleeps:
                await waiter.sleep(self._latest(waiter))
                if waiter.sleeps and clock()() >= self._latest(waiter):
                    self._expire(waiter)
        except BaseException:
            self.give_up(waiter)
            raise
        if waiter.refused is not None:
            raise waiter.refused
        if waiter.granted:
            if listening():
                self._tell_of_admission(waiter)
            return True
        waiter.woken = False
        return False

    def give_up(self, waiter: Waiter) -> None:
        """End the wait. A place that the waiter was given in this moment goes to the next one. A second call changes nothing."""
        if waiter.refused is not None:
            return
        waiter.refused = Overloaded("the caller has left", dependency=self.name)
        if waiter.granted:
            waiter.granted = False
            self.give_back(waiter.flow, None, False, 0.0)
        else:
            self._forget(waiter)

    def release(self, service_time: float | None = None, *, flow: str | None = None, finished: bool = True) -> None:
        """Give a place back.

        Args:
            service_time: seconds that it was used for, to learn from; None: not worth learning.
            flow: who had it; None: the flow in force.
            finished: False: the call was cut short, so that it would have taken longer.
        """
        found = self._flows.get(current_flow.get() if flow is None else flow)
        if found is None or not found.inside:  # given back under another name than it was taken: then by who has most
            found = max(self._flows.values(), key=lambda one: one.inside)
        self.give_back(found, service_time, finished, 0.0 if service_time is None else clock()())

    def give_back(self, flow: Flow, service_time: float | None, finished: bool, now: float) -> None:
        """As `release`, for whoever has kept the flow."""
        if service_time is not None:
            if now > self._forget_at:
                self._service_time = 0.0
            before = self._service_time or (service_time if finished else math.inf)
            if finished or service_time > before:
                # What is much quicker than was thought comes after trouble: it is believed sooner.
                weight = NEWEST if service_time * MUCH_QUICKER > before else MUCH_QUICKER_WEIGHT
                self._service_time = before + weight * (service_time - before)
                self._forget_at = now + FORGET_SECONDS + FORGET_SERVICES * self._service_time
            if finished and len(self._flows) > 1:
                flow.learn(service_time)
        flow.inside -= 1
        if not flow.inside:
            self._holders -= 1
        self._inside -= 1
        if self._waiting:
            self._let_in()

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
        return BulkheadSnapshot(
            name=self.name,
            limit=self._limit,
            inside=self._inside,
            queue=self.queue,
            waiting=self._waiting,
            flows=self._holders + sum(1 for flow in self._ring if not flow.inside),
            admitted=self._admitted,
            rejected=self._rejected,
            service_time=self._service_time or None,
        )

    def _flow(self, name: str | None) -> Flow:
        if name is None:
            name = current_flow.get()
        found = self._flows.get(name)
        if found is None:
            if len(self._flows) >= MOST_FLOWS:
                self._forget_flows()
            found = self._flows[name] = Flow(name)
        return found

    def _forget_flows(self) -> None:
        """Forget the oldest flow that has nothing under way; one that has moves to the end, so that it isn't looked at again soon."""
        for _ in range(len(self._flows)):
            name = next(iter(self._flows))
            flow = self._flows.pop(name)
            if not flow.inside and not flow.waiting:
                return
            self._flows[name] = flow

    def _take(self, flow: Flow) -> None:
        if not flow.inside:
            self._holders += 1
        flow.inside += 1
        self._inside += 1
        self._admitted += 1

    def _let_in(self) -> None:
        """Give free places to those who wait, in one step: nobody who comes meanwhile overtakes them."""
        if not self._waiting or self._inside >= self._limit:
            return
        now = now_if_any()
        if now is None:  # a limit that is set, or a place that is given back, where no event loop runs
            now = -math.inf
        while self._waiting and self._inside < self._limit:
            flow = self._whose_turn()
            contested = len(self._ring) > 1
            waiter = self._pick(flow)
            self._forget(waiter)
            if waiter.when - now < self._service_time:
                self._refuse(waiter, now)
                continue
            flow.turns += 1
            flow.served = self._admitted
            # Alone it owes nobody; a debt is never more than one turn's.
            if flow.waiting:
                flow.credit = max(flow.credit - self._cost(flow), -DEAREST) if contested else 0.0
            self._take(flow)
            waiter.left, waiter.needed = waiter.when - now, self._service_time
            waiter.granted = True
            waiter.stir()
            self._let_go_of_the_hopeless(flow, now)
            # With a margin, so that the order doesn't change all the time.
            if flow.newest_first and flow.waiting and self._fits(flow, flow.oldest(), now, margin=2.0):
                flow.newest_first = False

    def _fits(self, flow: Flow, waiter: Waiter, now: float, *, margin: float = 1.0) -> bool:
        """Whether a caller could still be served after all others of its flow.

        Args:
            margin: by how much the wait may turn out longer.
        """
        wait = len(flow.waiting) * self._service_time * len(self._ring) / self._limit
        return margin * wait <= waiter.when - now - self._service_time

    def _whose_turn(self) -> Flow:
        """Deficit round robin, among the flows below their share of the places if there are such."""
        if len(self._ring) == 1:
            return next(iter(self._ring))
        flows = self._holders + sum(1 for flow in self._ring if not flow.inside)
        share = math.ceil(self._limit / flows)
        entitled = [flow for flow in self._ring if flow.inside < share] or list(self._ring)
        # The one served longest ago comes first, also if it was away in between.
        entitled.sort(key=lambda flow: flow.served)
        while True:
            for flow in entitled:
                if flow.credit > 0:
                    return flow
            for flow in entitled:
                flow.credit += 1.0

    def _cost(self, flow: Flow) -> float:
        if not flow.service_time or not self._service_time:
            return 1.0
        return min(max(flow.service_time / self._service_time, CHEAPEST), DEAREST)

    def _pick(self, flow: Flow) -> Waiter:
        """Who of a flow comes next."""
        if not flow.newest_first:
            return flow.oldest()
        # Timeouts may differ. With equal ones this is the newest, too; a patient caller is not overtaken for ever.
        return flow.newest() if flow.turns % PATIENT_EVERY else flow.most_patient()

    def _let_go_of_the_hopeless(self, flow: Flow, now: float) -> None:
        """Where the newest come first, the oldest has those after it before it: refuse it once that alone is too long."""
        while flow.newest_first and len(flow.waiting) > 1:
            oldest = flow.oldest()
            wait = (len(flow.waiting) - 1) * self._service_time / self._limit
            if now + wait <= oldest.when - self._service_time:
                return
            self._forget(oldest)
            self._refuse(oldest, now)

    def _make_room(self, flow: Flow, now: float) -> None:
        """For a newcomer of this flow, where the queue is full: refuse somebody else with less right to a place in it, or raise."""
        most = max(self._ring, key=lambda other: len(other.waiting), default=flow)
        if len(most.waiting) <= len(flow.waiting) + (most is not flow):
            most = flow
        if not most.waiting or (most is flow and not flow.newest_first):
            raise self._refusal(
                f"concurrency limit and queue are full ({self._inside} running, {self._waiting} waiting)"
            )
        last = most.oldest() if most.newest_first else most.newest()
        waiting = self._waiting
        self._forget(last)
        last.refused = self._refusal(f"{_in_vain(now - last.since, waiting)} and the queue was full")
        last.stir()

    def _latest(self, waiter: Waiter) -> float:
        """Until when it makes sense to wait."""
        return min(waiter.by, waiter.when - max(self._service_time, BEFORE_DEADLINE))

    def _expire(self, waiter: Waiter) -> None:
        waiter.flow.newest_first = True  # it could not be served in order
        self._forget(waiter)
        self._refuse(waiter, clock()())

    def _refuse(self, waiter: Waiter, now: float) -> None:
        waiter.refused = self._refusal(_in_vain(now - waiter.since, self._waiting + 1))
        waiter.stir()

    def _forget(self, waiter: Waiter) -> None:
        flow = waiter.flow
        del flow.waiting[waiter]
        self._waiting -= 1
        if not flow.waiting:
            flow.newest_first = False
            flow.credit = 0.0
            del self._ring[flow]

    def _refusal(self, why: str) -> Overloaded:
        wait = self.expected_wait()
        self._rejected += 1
        emit("bulkhead.rejected", self.name, waiting=self._waiting, expected_wait=wait)
        dependency = self.name or "this dependency"
        return Overloaded(
            f"{dependency} is overloaded: {why}; try again later or raise its limit",
            dependency=self.name,
            retry_after=max(wait, 0.1),
        )

    def _tell_of_admission(self, waiter: Waiter) -> None:
        emit(
            "bulkhead.admitted",
            self.name,
            waited=clock()() - waiter.since,
            left=None if math.isinf(waiter.left) else waiter.left,
            service_time=waiter.needed,
        )


def _in_vain(waited: float, waiting: int) -> str:
    """The reason of a caller that waited for nothing; it is one of those who were waiting."""
    return f"no place within {waited:.1f} s; {waiting} {'callers were' if waiting > 1 else 'caller was'} waiting"

"""The queue of a bulkhead: fair between flows, and within a flow by the callers' remaining time.

- Between flows: deficit round robin. While another flow waits, a flow holds at most its share of the places.
- Within a flow: the oldest caller comes first. If the flow has more callers than can be served in time, the newest comes first. The newest caller has the
  most time left, so each place goes to a caller that can still use it.
- A caller whose remaining time is shorter than recent calls took is refused at once.

Sources: M. Shreedhar, G. Varghese, "Efficient Fair Queuing Using Deficit Round Robin" (1996); B. Maurer, "Fail at Scale" (ACM Queue, 2015) for
adaptive LIFO. docs/explanation/resilience.md compares it with earliest deadline first.
"""

from __future__ import annotations

import math

from ragcore.errors import Overloaded
from ragcore.events import emit, listening
from ragcore.resilience.clock import clock, now_if_any
from ragcore.resilience.places import Places
from ragcore.resilience.waiter import Flow, Waiter

__all__ = ["FairQueue"]

# A waiting caller is refused this long before its deadline, so that its error is `Overloaded` with a reason, not `DeadlineExceeded`.
BEFORE_DEADLINE = 0.01
# A flow whose calls take longer than average gets fewer turns, within these bounds.
CHEAPEST, DEAREST = 0.25, 4.0
# While the newest callers come first, one in four places of a flow goes to the caller with the latest deadline.
PATIENT_EVERY = 4


class FairQueue:
    """The callers that wait for a place.

    Invariant: between two steps of the event loop, no caller waits while a place is free. So a place that is given back goes to a waiting caller in the
    same step, and a new caller can't overtake it. A waiter is in its flow's `waiting`, and its flow is in `ring`, until the waiter is granted a place, is
    refused or gives up.

    Args:
        places: the places for which they wait.
        most: the largest number of waiting callers.

    Attributes:
        ring: the flows that have waiting callers.
        waiting: the number of waiting callers.
        rejected: the number of callers that were refused so far.
    """

    __slots__ = ("_places", "most", "rejected", "ring", "waiting")

    waiting: int
    rejected: int
    most: int

    def __init__(self, places: Places, *, most: int) -> None:
        self._places = places
        self.most = most
        self.ring: dict[Flow, None] = {}
        self.waiting = 0
        self.rejected = 0

    def flows(self) -> int:
        """Return the number of flows that hold a place or wait for one."""
        return self._places.holders + sum(1 for flow in self.ring if not flow.inside)

    def expected_wait(self) -> float:
        """See `Bulkhead.expected_wait`."""
        places = self._places
        if places.inside < places.limit and not self.waiting:
            return 0.0
        return (self.waiting + 1) * places.service_time / places.limit

    def give_back(self, flow: Flow, service_time: float | None, finished: bool, now: float) -> None:
        """Give a place back. The next waiting caller gets it in the same step."""
        self._places.give_back(flow, service_time, finished, now)
        if self.waiting:
            self.let_in()

    def enqueue(self, when: float, flow: str | None = None, *, by: float = math.inf) -> Waiter:
        """Add a caller to the queue. Use `wait` to wait for its place.

        Args:
            when: the caller's deadline.
            flow: the caller's flow; None: the current flow.
            by: the latest time at which the caller can use a place. After that time the caller uses an alternative.

        Raises:
            Overloaded: the queue is full, or the call can't finish by its deadline.
        """
        now = clock()()
        found = self._places.of(flow)
        self._places.forget_old_estimate(now)
        if when - now < self._places.service_time:
            raise self._refusal(
                f"recent calls took {self._places.service_time:.1f} s and only {max(0.0, when - now):.1f} s are left, while the concurrency limit is "
                f"reached ({self._places.inside} running, {self.waiting} waiting)"
            )
        if self.waiting >= self.most:
            self._make_room(found, now)
        # The waiter joins the queue before the check, because `_fits` depends on the number of callers of its flow.
        waiter = Waiter(when, found, now, by)
        found.waiting[waiter] = None
        self.waiting += 1
        self.ring.setdefault(found)
        if not found.newest_first and not self._fits(found, waiter, now):
            found.newest_first = True
        emit("bulkhead.waiting", self._places.name, waiting=self.waiting)
        self._refuse_hopeless(found, now)
        return waiter

    async def wait(self, waiter: Waiter) -> bool:
        """Wait for a place, or until `Waiter.wake` is called.

        Returns:
            True with a place. False after `Waiter.wake`; the waiter keeps its position in the queue.

        Raises:
            Overloaded: the waiter was refused, or too little time is left for the call.
        """
        try:
            while waiter.sleeps:
                await waiter.sleep(self._latest(waiter))
                if waiter.sleeps and clock()() >= self._latest(waiter):
                    self._expire(waiter)
        except BaseException:  # cancelled, perhaps in the same step that granted the place
            self.give_up(waiter)
            raise
        if waiter.refused is not None:
            raise waiter.refused
        if waiter.granted:
            if listening("bulkhead.admitted"):
                self._emit_admission(waiter)
            return True
        waiter.woken = False
        return False

    def give_up(self, waiter: Waiter) -> None:
        """End the wait. If the waiter was granted a place in the same step, the next waiter gets it. A second call has no effect."""
        if waiter.refused is not None:
            return
        waiter.refused = Overloaded("the caller stopped waiting", dependency=self._places.name)
        if waiter.granted:
            waiter.granted = False
            self.give_back(waiter.flow, None, False, 0.0)
        else:
            self._forget(waiter)

    def let_in(self) -> None:
        """Give free places to waiting callers, in one step, so that no new caller overtakes them."""
        if not self.waiting or self._places.inside >= self._places.limit:
            return
        now = now_if_any()
        if now is None:  # the limit was set, or a place was given back, outside an event loop
            now = -math.inf
        while self.waiting and self._places.inside < self._places.limit:
            flow = self._next_flow()
            contested = len(self.ring) > 1
            waiter = self._pick(flow)
            self._forget(waiter)
            # Check again: when the waiter joined the queue, calls may have taken less time.
            if waiter.when - now < self._places.service_time:
                self._refuse(waiter, now)
                continue
            flow.turns += 1
            flow.served = self._places.admitted
            # If no other flow waits, a flow has no debt; otherwise its debt is at most that of one turn.
            if flow.waiting:
                flow.credit = max(flow.credit - self._cost(flow), -DEAREST) if contested else 0.0
            self._places.take(flow)
            waiter.left, waiter.needed = waiter.when - now, self._places.service_time
            waiter.granted = True
            waiter.end_sleep()
            self._refuse_hopeless(flow, now)
            # Without the margin, the order would change back and forth all the time.
            if flow.newest_first and flow.waiting and self._fits(flow, flow.oldest(), now, margin=2.0):
                flow.newest_first = False

    def _fits(self, flow: Flow, waiter: Waiter, now: float, *, margin: float = 1.0) -> bool:
        """Return whether a caller could still be served in time after all other callers of its flow.

        Args:
            flow: the caller's flow.
            waiter: the caller.
            now: the current time.
            margin: the factor by which the wait may exceed its estimate.
        """
        wait = len(flow.waiting) * self._places.service_time * len(self.ring) / self._places.limit
        return margin * wait <= waiter.when - now - self._places.service_time

    def _next_flow(self) -> Flow:
        """Return the flow that gets the next place, by deficit round robin. Flows below their share of the places come first."""
        if len(self.ring) == 1:
            return next(iter(self.ring))
        share = math.ceil(self._places.limit / self.flows())
        entitled = [flow for flow in self.ring if flow.inside < share] or list(self.ring)
        # The flow that was served longest ago comes first, even if it has had no waiting callers since then.
        entitled.sort(key=lambda flow: flow.served)
        # The loop ends, because each round adds one credit to each flow and a debt is bounded.
        while True:
            for flow in entitled:
                if flow.credit > 0:
                    return flow
            for flow in entitled:
                flow.credit += 1.0

    def _cost(self, flow: Flow) -> float:
        if not flow.service_time or not self._places.service_time:
            return 1.0
        return min(max(flow.service_time / self._places.service_time, CHEAPEST), DEAREST)

    def _pick(self, flow: Flow) -> Waiter:
        """Return the next waiter of a flow."""
        if not flow.newest_first:
            return flow.oldest()
        # Sometimes choose the caller with the latest deadline, so that it is not overtaken forever. With equal timeouts it is the newest one anyway.
        return flow.newest() if flow.turns % PATIENT_EVERY else flow.most_patient()

    def _refuse_hopeless(self, flow: Flow, now: float) -> None:
        """Refuse callers that can't be served in time. While the newest callers come first, the oldest waits for all others of its flow."""
        while flow.newest_first and len(flow.waiting) > 1:
            oldest = flow.oldest()
            wait = (len(flow.waiting) - 1) * self._places.service_time / self._places.limit
            if now + wait <= oldest.when - self._places.service_time:
                return
            self._forget(oldest)
            self._refuse(oldest, now)

    def _make_room(self, flow: Flow, now: float) -> None:
        """Make room in a full queue for a new caller of this flow: refuse a waiting caller, or raise `Overloaded` for the new one."""
        # The flow with the most waiting callers loses one, so that one tenant can't keep the others out of the queue.
        most = max(self.ring, key=lambda other: len(other.waiting), default=flow)
        if len(most.waiting) <= len(flow.waiting) + (most is not flow):
            most = flow
        if not most.waiting or (most is flow and not flow.newest_first):
            raise self._refusal(
                f"concurrency limit and queue are full ({self._places.inside} running, {self.waiting} waiting)"
            )
        last = most.oldest() if most.newest_first else most.newest()
        waiting = self.waiting
        self._forget(last)
        last.refused = self._refusal(f"{_why_refused(now - last.since, waiting)} and the queue was full")
        last.end_sleep()

    def _latest(self, waiter: Waiter) -> float:
        """Return the latest time at which a place is still useful for the waiter."""
        return min(waiter.by, waiter.when - max(self._places.service_time, BEFORE_DEADLINE))

    def _expire(self, waiter: Waiter) -> None:
        waiter.flow.newest_first = True  # in order of arrival, this waiter's turn would come too late
        self._forget(waiter)
        self._refuse(waiter, clock()())

    def _refuse(self, waiter: Waiter, now: float) -> None:
        waiter.refused = self._refusal(_why_refused(now - waiter.since, self.waiting + 1))
        waiter.end_sleep()

    def _forget(self, waiter: Waiter) -> None:
        flow = waiter.flow
        del flow.waiting[waiter]
        self.waiting -= 1
        if not flow.waiting:
            flow.newest_first = False
            flow.credit = 0.0
            del self.ring[flow]

    def _refusal(self, why: str) -> Overloaded:
        wait = self.expected_wait()
        self.rejected += 1
        emit("bulkhead.rejected", self._places.name, waiting=self.waiting, expected_wait=wait)
        dependency = self._places.name or "this dependency"
        return Overloaded(
            f"{dependency} is overloaded: {why}; try again later or raise its limit",
            dependency=self._places.name,
            retry_after=max(wait, 0.1),
        )

    def _emit_admission(self, waiter: Waiter) -> None:
        emit(
            "bulkhead.admitted",
            self._places.name,
            waited=clock()() - waiter.since,
            left=None if math.isinf(waiter.left) else waiter.left,
            service_time=waiter.needed,
        )


def _why_refused(waited: float, waiting: int) -> str:
    """Return the reason for refusing a waiter. `waiting` includes the waiter itself."""
    return f"no place within {waited:.1f} s; {waiting} {'callers were' if waiting > 1 else 'caller was'} waiting"

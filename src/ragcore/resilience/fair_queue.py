"""The queue of a bulkhead: fair between flows, and by what time callers have left within one.

- Between flows: deficit round robin. While another flow waits, a flow holds at most its share of the places.
- Within a flow: the oldest caller first. If the flow has more callers than can be served in time, the newest first: it has the most time left, so
  each place goes to a caller that can still use it.
- A caller whose remaining time is shorter than recent calls took is refused at once.

Sources: M. Shreedhar, G. Varghese, "Efficient Fair Queuing Using Deficit Round Robin" (1996); B. Maurer, "Fail at Scale" (ACM Queue, 2015) for
adaptive LIFO. docs/explanation/resilience.md has the figures beside earliest deadline first.
"""

from __future__ import annotations

import math

from ragcore.errors import Overloaded
from ragcore.events import emit, listening
from ragcore.resilience.clock import clock, now_if_any
from ragcore.resilience.places import Places
from ragcore.resilience.waiter import Flow, Waiter

__all__ = ["FairQueue"]

# A caller is told this long before its deadline, so that it hears a reason rather than its own deadline.
BEFORE_DEADLINE = 0.01
# A flow whose calls take longer than the others' has fewer turns, within these bounds.
CHEAPEST, DEAREST = 0.25, 4.0
# While the newest come first, each so-manieth place of a flow goes to the caller with the latest deadline.
PATIENT_EVERY = 4


class FairQueue:
    """Who waits for one of some places.

    Invariant: nobody waits while a place is free, between any two steps of the event loop. So a place that is given back goes to somebody in the queue
    in the same step, and a newcomer can't overtake. A waiter stands in its flow's `waiting`, its flow in `ring`, exactly until it is granted a place,
    refused, or gives up.

    Args:
        places: for which they wait.
        most: callers that may wait.

    Attributes:
        ring: flows with callers that wait.
        waiting: callers that wait.
        rejected: callers that were refused so far.
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
        """Flows that hold a place or wait for one."""
        return self._places.holders + sum(1 for flow in self.ring if not flow.inside)

    def expected_wait(self) -> float:
        """As `Bulkhead.expected_wait`."""
        places = self._places
        if places.inside < places.limit and not self.waiting:
            return 0.0
        return (self.waiting + 1) * places.service_time / places.limit

    def give_back(self, flow: Flow, service_time: float | None, finished: bool, now: float) -> None:
        """Give a place back; the next in line gets it in the same step."""
        self._places.give_back(flow, service_time, finished, now)
        if self.waiting:
            self.let_in()

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
        found = self._places.of(flow)
        self._places.forget_what_is_old(now)
        if when - now < self._places.service_time:
            raise self._refusal(
                f"recent calls took {self._places.service_time:.1f} s and only {max(0.0, when - now):.1f} s are left, while the concurrency limit is "
                f"reached ({self._places.inside} running, {self.waiting} waiting)"
            )
        if self.waiting >= self.most:
            self._make_room(found, now)
        # Into the queue before it is judged: whether it fits depends on how many of its flow are before it.
        waiter = Waiter(when, found, now, by)
        found.waiting[waiter] = None
        self.waiting += 1
        self.ring.setdefault(found)
        if not found.newest_first and not self._fits(found, waiter, now):
            found.newest_first = True
        emit("bulkhead.waiting", self._places.name, waiting=self.waiting)
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
        except BaseException:  # cancelled: also in the very moment in which it was granted its place
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
        waiter.refused = Overloaded("the caller has left", dependency=self._places.name)
        if waiter.granted:
            waiter.granted = False
            self.give_back(waiter.flow, None, False, 0.0)
        else:
            self._forget(waiter)

    def let_in(self) -> None:
        """Give free places to those who wait, in one step: nobody who comes meanwhile overtakes them."""
        if not self.waiting or self._places.inside >= self._places.limit:
            return
        now = now_if_any()
        if now is None:  # a limit that is set, or a place that is given back, where no event loop runs
            now = -math.inf
        while self.waiting and self._places.inside < self._places.limit:
            flow = self._whose_turn()
            contested = len(self.ring) > 1
            waiter = self._pick(flow)
            self._forget(waiter)
            # Not by the wait alone: it may have been admitted to the queue when calls were quicker than they are now.
            if waiter.when - now < self._places.service_time:
                self._refuse(waiter, now)
                continue
            flow.turns += 1
            flow.served = self._places.admitted
            # Alone it owes nobody; a debt is never more than one turn's.
            if flow.waiting:
                flow.credit = max(flow.credit - self._cost(flow), -DEAREST) if contested else 0.0
            self._places.take(flow)
            waiter.left, waiter.needed = waiter.when - now, self._places.service_time
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
        wait = len(flow.waiting) * self._places.service_time * len(self.ring) / self._places.limit
        return margin * wait <= waiter.when - now - self._places.service_time

    def _whose_turn(self) -> Flow:
        """Deficit round robin, among the flows below their share of the places if there are such."""
        if len(self.ring) == 1:
            return next(iter(self.ring))
        share = math.ceil(self._places.limit / self.flows())
        entitled = [flow for flow in self.ring if flow.inside < share] or list(self.ring)
        # The one served longest ago comes first, also if it was away in between.
        entitled.sort(key=lambda flow: flow.served)
        # Ends: each round adds a credit to all, and a debt is bounded.
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
        """Who of a flow comes next."""
        if not flow.newest_first:
            return flow.oldest()
        # Timeouts may differ. With equal ones this is the newest, too; a patient caller is not overtaken for ever.
        return flow.newest() if flow.turns % PATIENT_EVERY else flow.most_patient()

    def _let_go_of_the_hopeless(self, flow: Flow, now: float) -> None:
        """Where the newest come first, the oldest has those after it before it: refuse it once that alone is too long."""
        while flow.newest_first and len(flow.waiting) > 1:
            oldest = flow.oldest()
            wait = (len(flow.waiting) - 1) * self._places.service_time / self._places.limit
            if now + wait <= oldest.when - self._places.service_time:
                return
            self._forget(oldest)
            self._refuse(oldest, now)

    def _make_room(self, flow: Flow, now: float) -> None:
        """For a newcomer of this flow, where the queue is full: refuse somebody else with less right to a place in it, or raise."""
        # The flow with most callers pays, so one tenant's crowd can't keep the others out of the queue.
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
        last.refused = self._refusal(f"{_in_vain(now - last.since, waiting)} and the queue was full")
        last.stir()

    def _latest(self, waiter: Waiter) -> float:
        """Until when it makes sense to wait."""
        return min(waiter.by, waiter.when - max(self._places.service_time, BEFORE_DEADLINE))

    def _expire(self, waiter: Waiter) -> None:
        waiter.flow.newest_first = True  # it could not be served in order
        self._forget(waiter)
        self._refuse(waiter, clock()())

    def _refuse(self, waiter: Waiter, now: float) -> None:
        waiter.refused = self._refusal(_in_vain(now - waiter.since, self.waiting + 1))
        waiter.stir()

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

    def _tell_of_admission(self, waiter: Waiter) -> None:
        emit(
            "bulkhead.admitted",
            self._places.name,
            waited=clock()() - waiter.since,
            left=None if math.isinf(waiter.left) else waiter.left,
            service_time=waiter.needed,
        )


def _in_vain(waited: float, waiting: int) -> str:
    """The reason of a caller that waited for nothing; it is one of those who were waiting."""
    return f"no place within {waited:.1f} s; {waiting} {'callers were' if waiting > 1 else 'caller was'} waiting"

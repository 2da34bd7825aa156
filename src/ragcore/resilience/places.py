"""The places of a bulkhead: how many there are, whose calls have one, and how long a call takes."""

from __future__ import annotations

import math

from ragcore.resilience.flow import MOST_FLOWS, current_flow
from ragcore.resilience.waiter import NEWEST, Flow

__all__ = ["Places"]

# An estimate that nothing has confirmed for so long, and for so many calls, is forgotten: what was learned in trouble is not believed for ever.
FORGET_SECONDS, FORGET_SERVICES = 30.0, 3.0
MUCH_QUICKER, MUCH_QUICKER_WEIGHT = 4.0, 0.5


class Places:
    """Places, by flow.

    Invariant: `inside` is the sum of the flows' own `inside`, and `holders` counts those that are not 0. A flow that is remembered by somebody who
    holds a place, or who waits for one, is never forgotten here.

    Attributes:
        limit: places.
        name: in events and errors.
        inside: those that are taken; more than `limit` for a while where that was lowered.
        holders: flows that have a place.
        flows: by name.
        admitted: calls so far.
        service_time: seconds that a call takes, by the moving average; 0 while nothing is known.
    """

    __slots__ = ("_forget_at", "admitted", "flows", "holders", "inside", "limit", "name", "service_time")

    limit: int
    name: str
    admitted: int
    holders: int
    inside: int
    service_time: float

    def __init__(self, limit: int, name: str) -> None:
        self.limit = limit
        self.name = name
        self.inside = 0
        self.holders = 0
        self.admitted = 0
        self.flows: dict[str, Flow] = {}
        self.service_time = 0.0
        self._forget_at = math.inf

    def of(self, name: str | None) -> Flow:
        """A flow by its name; None: the flow in force."""
        if name is None:
            name = current_flow.get()
        found = self.flows.get(name)
        if found is None:
            if len(self.flows) >= MOST_FLOWS:
                self._forget_a_flow()
            found = self.flows[name] = Flow(name)
        return found

    def take(self, flow: Flow) -> None:
        """One more for this flow."""
        if not flow.inside:
            self.holders += 1
        flow.inside += 1
        self.inside += 1
        self.admitted += 1

    def give_back(self, flow: Flow, service_time: float | None, finished: bool, now: float) -> None:
        """One less. The rest as `Bulkhead.release`."""
        if service_time is not None:
            self._learn(flow, service_time, finished, now)
        flow.inside -= 1
        if not flow.inside:
            self.holders -= 1
        self.inside -= 1

    def forget_what_is_old(self, now: float) -> None:
        """An estimate that nothing confirms any more."""
        if now > self._forget_at:
            self.service_time = 0.0

    def _learn(self, flow: Flow, service_time: float, finished: bool, now: float) -> None:
        self.forget_what_is_old(now)
        before = self.service_time or (service_time if finished else math.inf)
        # A call that was cut short has only shown that it would have taken longer: it can raise the estimate and never lower it.
        if finished or service_time > before:
            # What is much quicker than was thought comes after trouble: it is believed sooner.
            weight = NEWEST if service_time * MUCH_QUICKER > before else MUCH_QUICKER_WEIGHT
            self.service_time = before + weight * (service_time - before)
            self._forget_at = now + FORGET_SECONDS + FORGET_SERVICES * self.service_time
        if finished and len(self.flows) > 1:
            flow.learn(service_time)

    def _forget_a_flow(self) -> None:
        """Forget the oldest flow that has nothing under way; one that has moves to the end, so that it isn't looked at again soon."""
        for _ in range(len(self.flows)):
            name = next(iter(self.flows))
            flow = self.flows.pop(name)
            if not flow.inside and not flow.waiting:
                return
            self.flows[name] = flow

"""The places of a bulkhead: their number, the flows that hold them, and the time that a call takes."""

from __future__ import annotations

import math

from ragcore.resilience.flow import MOST_FLOWS, current_flow
from ragcore.resilience.waiter import NEWEST, Flow

__all__ = ["Places"]

# An estimate is forgotten if no call has confirmed it for this many seconds plus this many service times. Otherwise an estimate from a slow period
# would stay forever.
FORGET_SECONDS, FORGET_SERVICES = 30.0, 3.0
# A call that is this many times faster than the estimate gets this weight in the moving average.
MUCH_QUICKER, MUCH_QUICKER_WEIGHT = 4.0, 0.5


class Places:
    """The places of a bulkhead by flow.

    Invariant: `inside` is the sum of the flows' `inside`, and `holders` counts the flows whose `inside` is not 0. A flow with a call that holds a place or
    waits for one is never forgotten.

    Attributes:
        limit: the number of places.
        name: the name in events and errors.
        inside: the number of taken places; may be more than `limit` for a while after `limit` was lowered.
        holders: the number of flows that hold a place.
        flows: the flows by name.
        admitted: the number of admitted calls so far.
        service_time: seconds that a call takes, as a moving average; 0 while unknown.
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
        """Return a flow by its name; None: the current flow."""
        if name is None:
            name = current_flow.get()
        found = self.flows.get(name)
        if found is None:
            if len(self.flows) >= MOST_FLOWS:
                self._forget_a_flow()
            found = self.flows[name] = Flow(name)
        return found

    def take(self, flow: Flow) -> None:
        """Take a place for this flow."""
        if not flow.inside:
            self.holders += 1
        flow.inside += 1
        self.inside += 1
        self.admitted += 1

    def give_back(self, flow: Flow, service_time: float | None, finished: bool, now: float) -> None:
        """Give a place of this flow back. For the arguments see `Bulkhead.release`."""
        if service_time is not None:
            self._learn(flow, service_time, finished, now)
        flow.inside -= 1
        if not flow.inside:
            self.holders -= 1
        self.inside -= 1

    def forget_old_estimate(self, now: float) -> None:
        """Forget the estimate if no recent call confirms it."""
        if now > self._forget_at:
            self.service_time = 0.0

    def _learn(self, flow: Flow, service_time: float, finished: bool, now: float) -> None:
        self.forget_old_estimate(now)
        before = self.service_time or (service_time if finished else math.inf)
        # If a call was cut short, its time is a lower bound: it can raise the estimate but never lower it.
        if finished or service_time > before:
            # If a call is much faster than the estimate, a slow period has ended. So this call gets a larger weight.
            weight = NEWEST if service_time * MUCH_QUICKER > before else MUCH_QUICKER_WEIGHT
            self.service_time = before + weight * (service_time - before)
            self._forget_at = now + FORGET_SECONDS + FORGET_SERVICES * self.service_time
        if finished and len(self.flows) > 1:
            flow.learn(service_time)

    def _forget_a_flow(self) -> None:
        """Forget the oldest flow that has no calls. Move each flow that has calls to the end, so that it isn't checked again soon."""
        for _ in range(len(self.flows)):
            name = next(iter(self.flows))
            flow = self.flows.pop(name)
            if not flow.inside and not flow.waiting:
                return
            self.flows[name] = flow

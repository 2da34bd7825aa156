"""Flows that are set apart: their own circuit breakers refuse their calls while the calls of all other flows continue.

A flow fails alone if its requests are at fault and not the dependency, for example because of a damaged document or a question that is too long. Such a
flow must not open the breaker for all flows. Conversely, an outage must not be treated as the failures of one flow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from ragcore.resilience.blame import Blame
from ragcore.resilience.flow import MOST_FLOWS
from ragcore.resilience.window import SlidingWindow

__all__ = ["FlowsApart"]


class Own(Protocol):
    """The breaker of one flow."""

    @property
    def state(self) -> str:
        """ "closed" when the flow's calls succeed again."""


B = TypeVar("B", bound=Own)


class FlowsApart(Generic[B]):
    """Assigns failures to single flows, and holds the breakers of those flows.

    Invariant: the window of all flows contains no failures that belong to a single flow: `_settle` removes them, and the flow's own breaker counts from
    then on. A suspect is a flow that is set apart while its failures are still in that window. The next call of another flow decides: if it succeeds, only
    the suspect fails; if it fails, the breaker opens for all flows.

    Args:
        window: the breaker's window, with the outcomes of all flows.
        minimum_throughput: the ratios apply only if a window has at least this many calls.
        seconds, failure_ratio, slow_ratio: passed to `Blame`.
        open_for: returns an open breaker for a flow, given the flow and the current time.

    Attributes:
        of: the breakers by flow.
    """

    blame: Blame

    def __init__(
        self,
        window: SlidingWindow,
        *,
        minimum_throughput: int,
        seconds: float,
        failure_ratio: float,
        slow_ratio: float,
        open_for: Callable[[str, float], B],
    ) -> None:
        self.of: dict[str, B] = {}
        self.blame = Blame(seconds, failure_ratio=failure_ratio, slow_ratio=slow_ratio)
        self._window = window
        self._minimum_throughput = minimum_throughput
        self._open_for = open_for
        self._suspect: str | None = None

    def __len__(self) -> int:
        """Return the number of flows whose breaker is not closed."""
        return sum(1 for own in self.of.values() if own.state != "closed")

    def good(self, flow: str, began: float, now: float, *, counts: bool = True) -> None:
        """Record a good call of a flow that began at `began`. For `counts` see `Blame.good`."""
        self.blame.good(flow, began, now, counts=counts)
        if self._suspect is not None and self.blame.is_cleared_by(flow, self._suspect, began):
            self._settle(self._suspect, now)

    def bad(self, flow: str, calls: int, now: float, *, failed: bool, slow: bool) -> bool:
        """Count a bad call against its flow, and set apart the flows that fail alone.

        Args:
            flow: the flow of the call.
            calls: the number of calls in the breaker's window, including this one.
            now: the current time.
            failed: whether the call failed.
            slow: whether the call was too slow.

        Returns:
            Whether it is an outage, so that the breaker opens for all flows.
        """
        own = self.blame.bad(flow, now, failed=failed, slow=slow)
        if self._still_suspected() and flow != self._suspect:
            return True  # this is the call of another flow that decides: it failed as well, so it is an outage
        if calls < self._minimum_throughput:
            return False
        reached = self.blame.fails(self._window)
        # A flow that fails alone is also set apart if the other flows have so many good calls that the total ratio is low.
        alone = (
            own.calls >= self._minimum_throughput
            and 2 * self.blame.in_a_row(flow) >= self._minimum_throughput
            and self.blame.fails(own)
        )
        if not reached and not alone:
            return False
        # Set all culprits apart at once. If only one were set apart, the failures of the others would open the breaker for all flows.
        culprits = self.blame.culprits(self._window, now)
        for culprit in culprits:
            self.set_apart(culprit, now)
            self._settle(culprit, now)
        if culprits or not reached:
            return False
        # The other case: one flow fails, and no other flow has made a call since. If the breaker opened for all flows, it would block flows that may work;
        # if it stayed closed for all, it could hide an outage. So it opens for the suspect only.
        suspect = self.blame.suspect(self._window, now)
        if suspect is None:
            return True
        # The suspect's failures stay in the window: if the next call of another flow fails as well, it is an outage.
        self._suspect = suspect
        self.set_apart(suspect, now)
        return False

    def set_apart(self, flow: str, now: float) -> None:
        """Give this flow its own breaker, which is open."""
        if flow in self.of and self.of[flow].state != "closed":
            return
        while len(self.of) >= MOST_FLOWS:  # the flow that was set apart first is the most likely to work again
            del self.of[next(iter(self.of))]
        self.of[flow] = self._open_for(flow, now)

    def clear(self) -> None:
        """Forget all counts, because the breaker's state has changed."""
        self.blame.clear()
        self._suspect = None

    def _still_suspected(self) -> bool:
        """Return whether there is still a suspect. A suspect whose own breaker has closed is no longer one."""
        if self._suspect is None:
            return False
        own = self.of.get(self._suspect)
        if own is None or own.state == "closed":
            self._suspect = None
        return self._suspect is not None

    def _settle(self, flow: str, now: float) -> None:
        """Remove this flow's failures from the breaker's window, because they belong to this flow only."""
        window = self.blame.window_of(flow)
        if window is not None:
            self._window.subtract(window, now)
        self.blame.forgive(flow)
        if self._suspect == flow:
            self._suspect = None

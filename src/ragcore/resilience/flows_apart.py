"""Flows that are kept out of a dependency alone, each by a circuit breaker of its own, while all others are served.

A flow fails by itself where its requests are at fault, not the dependency: a poisoned document, a question that is too long. One such flow must not
open the breaker for everyone, nor may an outage be taken for its affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from ragcore.resilience.blame import Blame
from ragcore.resilience.flow import MOST_FLOWS
from ragcore.resilience.window import SlidingWindow

__all__ = ["FlowsApart"]


class Own(Protocol):
    """A breaker that a flow has for itself."""

    @property
    def state(self) -> str:
        """ "closed" once the flow is served again."""


B = TypeVar("B", bound=Own)


class FlowsApart(Generic[B]):
    """Which failures are a flow's own affair, and the breakers of those flows.

    Invariant: what is a flow's own affair is in no window of all flows: `_settle` takes it out of there, and the flow's own breaker counts from then
    on. A suspect is a flow that is kept out though its failures still are in there: the next call of any other flow decides, and clears it or opens the
    breaker for all.

    Args:
        window: of all flows' outcomes, the breaker's.
        minimum_throughput: calls in a window before a ratio means anything.
        seconds, failure_ratio, slow_ratio: as `Blame` takes them.
        open_for: makes an open breaker for a flow, at a point in time.

    Attributes:
        of: the breakers, by flow.
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
        """Flows that are kept out now."""
        return sum(1 for own in self.of.values() if own.state != "closed")

    def good(self, flow: str, began: float, now: float, *, counts: bool = True) -> None:
        """A call of a flow that began then went well. `counts` as in `Blame.good`."""
        self.blame.good(flow, began, now, counts=counts)
        if self._suspect is not None and self.blame.is_cleared_by(flow, self._suspect, began):
            self._settle(self._suspect, now)

    def bad(self, flow: str, calls: int, now: float, *, failed: bool, slow: bool) -> bool:
        """Count a failure against its flow, and set apart whoever fails alone.

        Args:
            calls: in the breaker's window, this one included.

        Returns:
            Whether it is an outage: the breaker opens for all.
        """
        own = self.blame.bad(flow, now, failed=failed, slow=slow)
        if self._still_suspected() and flow != self._suspect:
            return True  # the call of another flow that decides
        if calls < self._minimum_throughput:
            return False
        reached = self.blame.fails(self._window)
        # A flow that fails by itself is set apart also where the others are so many that the whole does not fail.
        alone = (
            own.calls >= self._minimum_throughput
            and 2 * self.blame.in_a_row(flow) >= self._minimum_throughput
            and self.blame.fails(own)
        )
        if not reached and not alone:
            return False
        # All that are guilty at once: set apart one by one, the rest would still open the breaker for all.
        culprits = self.blame.culprits(self._window, now)
        for culprit in culprits:
            self.set_apart(culprit, now)
            self._settle(culprit, now)
        if culprits or not reached:
            return False
        # Nobody else has asked since. Opening for all would punish them unheard; letting the flow go on would hide an outage.
        suspect = self.blame.suspect(self._window, now)
        if suspect is None:
            return True
        # Its failures stay in the window: if the next call of another flow fails as well, it is an outage.
        self._suspect = suspect
        self.set_apart(suspect, now)
        return False

    def set_apart(self, flow: str, now: float) -> None:
        """From now on this flow has a breaker of its own, which is open."""
        if flow in self.of and self.of[flow].state != "closed":
            return
        while len(self.of) >= MOST_FLOWS:  # the one set apart longest ago is the likeliest to be well by now
            del self.of[next(iter(self.of))]
        self.of[flow] = self._open_for(flow, now)

    def clear(self) -> None:
        """What was counted so far is of another time: the breaker's state has changed."""
        self.blame.clear()
        self._suspect = None

    def _still_suspected(self) -> bool:
        """Whether a flow is kept out of which it isn't known yet whether its failures are its own; served again, it is cleared."""
        if self._suspect is None:
            return False
        own = self.of.get(self._suspect)
        if own is None or own.state == "closed":
            self._suspect = None
        return self._suspect is not None

    def _settle(self, flow: str, now: float) -> None:
        """The failures of this flow are its own affair, and no longer the breaker's."""
        window = self.blame.window_of(flow)
        if window is not None:
            self._window.subtract(window, now)
        self.blame.forgive(flow)
        if self._suspect == flow:
            self._suspect = None

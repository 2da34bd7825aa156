"""Whose failures they are: one flow's own, or everybody's.

A tenant whose text makes a model answer 500 fails as often as it asks, and the model is well. An outage fails all who ask. The two are told apart by
what others met meanwhile: where somebody else was served by a call that began after the failures had begun, the dependency is there. Where nobody
else has asked since, the flow that failed is a suspect only: it is kept out, and the next call of anybody else decides.
"""

from __future__ import annotations

import math

from ragcore.resilience.flow import MOST_FLOWS
from ragcore.resilience.window import SlidingWindow

__all__ = ["Blame"]

# More failing flows than this are an outage, whatever others met.
MOST_CULPRITS = 64
# How many others must have been served for each of several failing flows; for a single one, one other.
OTHERS_FOR_EACH = 3
# The others are well if they fail at less than this share of what opens the breaker.
WELL = 0.5


class Blame:
    """The outcomes of a sliding window by flow. Only flows that fail have a window of their own.

    Invariant: a flow stands in `failing` from its first bad call until its window is empty or it is forgiven. So a dependency that is well costs nothing
    for each flow, and the way of a good call is two comparisons.

    Args:
        seconds: of the window.
        failure_ratio: share of failures from which a flow fails.
        slow_ratio: share of slow calls from which it does.

    Attributes:
        failing: the flows that fail.
        latest, latest_began: the flow that was served last, and when that call began.
    """

    __slots__ = ("_failure_ratio", "_seconds", "_served", "_slow_ratio", "failing", "latest", "latest_began")

    latest_began: float

    def __init__(self, seconds: float, *, failure_ratio: float, slow_ratio: float) -> None:
        self._seconds = seconds
        self._failure_ratio = failure_ratio
        self._slow_ratio = slow_ratio
        self.failing: dict[str, _Failing] = {}
        self._served: dict[str, float] = {}  # when the last good call began, the latest last
        self.latest: str | None = None
        self.latest_began = 0.0

    def clear(self) -> None:
        """Forget everything."""
        self.failing.clear()
        self._served.clear()
        self.latest = None

    def good(self, flow: str, began: float, now: float, *, counts: bool = True) -> None:
        """A flow was served. Of the flow that was served last, only `latest_began` need be set while none fails.

        Args:
            counts: False: the call is in the window of all flows under another name, so it must not be in this flow's.
        """
        if flow != self.latest:
            self._keep_latest()
            self.latest = flow
        self.latest_began = began
        failing = self.failing.get(flow)
        if failing is not None:
            if counts:
                failing.window.add(now, False, False)
            failing.since, failing.in_a_row = math.inf, 0

    def _keep_latest(self) -> None:
        """Move the flow that was served last to the end of those that were served."""
        if self.latest is None:
            return
        served = self._served
        served.pop(self.latest, None)
        if len(served) >= MOST_FLOWS:
            del served[next(iter(served))]
        served[self.latest] = self.latest_began

    def bad(self, flow: str, now: float, *, failed: bool, slow: bool) -> SlidingWindow:
        """A flow's call failed, or was too slow.

        Returns:
            The flow's own window.
        """
        failing = self.failing.get(flow)
        if failing is None:
            if len(self.failing) >= MOST_FLOWS:
                del self.failing[next(iter(self.failing))]
            failing = self.failing[flow] = _Failing(self._seconds)
        failing.window.add(now, failed, slow)
        failing.since = min(failing.since, now)
        failing.first = min(failing.first, now)
        failing.in_a_row += 1
        return failing.window

    def in_a_row(self, flow: str) -> int:
        """How many of a flow's last calls went badly."""
        failing = self.failing.get(flow)
        return 0 if failing is None else failing.in_a_row

    def fails(self, window: SlidingWindow, share: float = 1.0) -> bool:
        """Whether the outcomes of a window reach this share of what opens the breaker."""
        return (
            window.failures >= share * self._failure_ratio * window.calls
            or window.slow >= share * self._slow_ratio * window.calls
        )

    def culprits(self, total: SlidingWindow, now: float) -> dict[str, SlidingWindow]:
        """The flows whose own affair the failures are, with their windows; none if it is an outage, or can't be told from one.

        Args:
            total: the outcomes of all flows in the same time.
        """
        self._keep_latest()
        suspects: dict[str, _Failing] = {}
        for flow, failing in list(self.failing.items()):
            failing.window.advance(now)
            if not failing.window.calls:
                del self.failing[flow]
            elif failing.in_a_row and self.fails(failing.window):
                suspects[flow] = failing
                if len(suspects) > MOST_CULPRITS:
                    return {}
        if not suspects or not self._others_are_well(suspects, total):
            return {}
        since = min(failing.since for failing in suspects.values())
        needed = 1 if len(suspects) == 1 else OTHERS_FOR_EACH * len(suspects)
        for flow in reversed(self._served):
            if flow not in suspects and self._served[flow] >= since:
                needed -= 1
                if not needed:
                    return {flow: failing.window for flow, failing in suspects.items()}
        return {}

    def suspect(self, total: SlidingWindow, now: float) -> str | None:
        """The one flow that has failed of late, while others that were served in the same time have not asked since; None if there is no such one.

        Args:
            total: the outcomes of all flows in the same time.
        """
        self._keep_latest()
        failing = [flow for flow, one in self.failing.items() if one.window.calls]
        if len(failing) != 1:
            return None
        others = next((flow for flow in reversed(self._served) if flow != failing[0]), None)
        if others is None or self._served[others] < now - self._seconds:
            return None
        return failing[0] if self._others_are_well({failing[0]: self.failing[failing[0]]}, total) else None

    def is_cleared_by(self, flow: str, suspect: str, began: float) -> bool:
        """Whether a good call of another flow, which began then, shows that the suspect's failures are its own affair."""
        failing = self.failing.get(suspect)
        return flow != suspect and (failing is None or began >= failing.first)

    def window_of(self, flow: str) -> SlidingWindow | None:
        """The outcomes of a flow that fails."""
        failing = self.failing.get(flow)
        return None if failing is None else failing.window

    def forgive(self, flow: str) -> None:
        """Forget a flow's failures: from now on they are counted elsewhere."""
        self.failing.pop(flow, None)

    def _others_are_well(self, suspects: dict[str, _Failing], total: SlidingWindow) -> bool:
        rest = SlidingWindow(self._seconds)
        rest.calls = total.calls - sum(failing.window.calls for failing in suspects.values())
        rest.failures = total.failures - sum(failing.window.failures for failing in suspects.values())
        rest.slow = total.slow - sum(failing.window.slow for failing in suspects.values())
        return rest.calls > 0 and not self.fails(rest, WELL)


class _Failing:
    __slots__ = ("first", "in_a_row", "since", "window")

    def __init__(self, seconds: float) -> None:
        self.window = SlidingWindow(seconds)
        self.first = self.since = math.inf
        self.in_a_row = 0

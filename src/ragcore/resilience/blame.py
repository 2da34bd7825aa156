"""Decides whether failures belong to one flow or to the dependency.

If a tenant's text makes a model return 500, each of that tenant's calls fails although the model works. In an outage the calls of all flows fail. The
calls of other flows tell the two apart. If another flow's call began after the first failure and succeeded, the dependency works. If no other flow has
made a call since, the failing flow is a suspect: its calls are refused, and the next call of another flow decides.
"""

from __future__ import annotations

import math

from ragcore.resilience.flow import MOST_FLOWS
from ragcore.resilience.window import SlidingWindow

__all__ = ["Blame"]

# If more flows than this fail, it is an outage, even if other flows succeed.
MOST_CULPRITS = 64
# If several flows fail, the number of other flows that succeeded must be at least this many times the number of failing flows. For a single failing flow, one
# other flow is enough.
OTHERS_FOR_EACH = 3
# The other flows are healthy if their failure ratio is below this share of the ratio that opens the breaker.
HEALTHY_SHARE = 0.5


class Blame:
    """The outcomes of a sliding window by flow. A good call succeeded in time; a bad call failed or was too slow.

    Only flows with bad calls have their own window.

    Invariant: a flow is in `failing` from its first bad call until its window is empty or it is forgiven. So a healthy dependency needs no window per
    flow, and a repeated good call of one flow costs two comparisons.

    Args:
        seconds: the length of the window.
        failure_ratio: a flow counts as failing if its share of failures is at least this.
        slow_ratio: a flow also counts as failing if its share of slow calls is at least this.

    Attributes:
        failing: the flows that have bad calls in their window.
        latest, latest_began: the flow of the last good call, and the time at which that call began.
    """

    __slots__ = ("_failure_ratio", "_seconds", "_served", "_slow_ratio", "failing", "latest", "latest_began")

    latest_began: float

    def __init__(self, seconds: float, *, failure_ratio: float, slow_ratio: float) -> None:
        self._seconds = seconds
        self._failure_ratio = failure_ratio
        self._slow_ratio = slow_ratio
        self.failing: dict[str, _Failing] = {}
        self._served: dict[
            str, float
        ] = {}  # the time at which each flow's last good call began; the latest flow is last
        self.latest: str | None = None
        self.latest_began = 0.0

    def clear(self) -> None:
        """Forget all outcomes."""
        self.failing.clear()
        self._served.clear()
        self.latest = None

    def good(self, flow: str, began: float, now: float, *, counts: bool = True) -> None:
        """Record a good call of a flow. If no flow fails and the last good call was of the same flow, only `latest_began` changes.

        Args:
            flow: the flow of the call.
            began: the time at which the call began.
            now: the current time.
            counts: False for a call that several flows shared. The breaker's window counts it once, without a flow, so this flow's window must not count it.
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
        """Move the latest flow to the end of `_served`."""
        if self.latest is None:
            return
        served = self._served
        served.pop(self.latest, None)
        if len(served) >= MOST_FLOWS:
            del served[next(iter(served))]
        served[self.latest] = self.latest_began

    def bad(self, flow: str, now: float, *, failed: bool, slow: bool) -> SlidingWindow:
        """Record a call of a flow that failed or was too slow.

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
        """Return how many of a flow's last calls in a row failed or were too slow."""
        failing = self.failing.get(flow)
        return 0 if failing is None else failing.in_a_row

    def fails(self, window: SlidingWindow, share: float = 1.0) -> bool:
        """Return whether a window's failure ratio or slow ratio is at least `share` of the ratio that opens the breaker."""
        return (
            window.failures >= share * self._failure_ratio * window.calls
            or window.slow >= share * self._slow_ratio * window.calls
        )

    def culprits(self, total: SlidingWindow, now: float) -> dict[str, SlidingWindow]:
        """Return the flows that cause the failures, with their windows. The result is empty in an outage, and while the cause is uncertain.

        Args:
            total: the outcomes of all flows in the same window.
            now: the current time.
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
        if not suspects or not self._others_are_healthy(suspects, total):
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
        """Return the flow that is under suspicion: the only one that failed recently, while no other flow has made a call since. Else return None.

        Other flows must have succeeded in the same window.

        Args:
            total: the outcomes of all flows in the same window.
            now: the current time.
        """
        self._keep_latest()
        failing = [flow for flow, one in self.failing.items() if one.window.calls]
        if len(failing) != 1:
            return None
        others = next((flow for flow in reversed(self._served) if flow != failing[0]), None)
        if others is None or self._served[others] < now - self._seconds:
            return None
        return failing[0] if self._others_are_healthy({failing[0]: self.failing[failing[0]]}, total) else None

    def is_cleared_by(self, flow: str, suspect: str, began: float) -> bool:
        """Return whether a good call of `flow` that began at `began` shows that the dependency works and only the suspect fails."""
        failing = self.failing.get(suspect)
        return flow != suspect and (failing is None or began >= failing.first)

    def window_of(self, flow: str) -> SlidingWindow | None:
        """Return the window of a failing flow; None if the flow has no bad calls."""
        failing = self.failing.get(flow)
        return None if failing is None else failing.window

    def forgive(self, flow: str) -> None:
        """Forget a flow's bad calls, because its own breaker counts from now on."""
        self.failing.pop(flow, None)

    def _others_are_healthy(self, suspects: dict[str, _Failing], total: SlidingWindow) -> bool:
        rest = SlidingWindow(self._seconds)
        rest.calls = total.calls - sum(failing.window.calls for failing in suspects.values())
        rest.failures = total.failures - sum(failing.window.failures for failing in suspects.values())
        rest.slow = total.slow - sum(failing.window.slow for failing in suspects.values())
        return rest.calls > 0 and not self.fails(rest, HEALTHY_SHARE)


class _Failing:
    __slots__ = ("first", "in_a_row", "since", "window")

    def __init__(self, seconds: float) -> None:
        self.window = SlidingWindow(seconds)
        self.first = self.since = math.inf
        self.in_a_row = 0

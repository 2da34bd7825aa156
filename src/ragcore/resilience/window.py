"""A sliding window over the outcomes of calls: a ring of buckets that advances on use. Each call takes O(1), and the memory is bounded.

Source: resilience4j's time-based sliding window (partial aggregates and one total).
"""

from __future__ import annotations

import math

__all__ = ["SlidingWindow"]

BUCKETS = 10


class SlidingWindow:
    """Counts the calls, failures and slow calls of the last `seconds`, with a resolution of a tenth of them.

    Invariant: the totals are the sums of the buckets. The index of a period's bucket is the period's number modulo the number of buckets.
    """

    __slots__ = ("_begins", "_bucket", "_buckets", "_ends", "_head", "_period", "calls", "failures", "slow")

    calls: int
    failures: int
    slow: int

    def __init__(self, seconds: float) -> None:
        self._period = seconds / BUCKETS
        self.clear()

    def clear(self) -> None:
        """Forget all outcomes."""
        self._buckets = [[0, 0, 0] for _ in range(BUCKETS)]
        self._bucket = self._buckets[0]
        self._head = 0
        self._begins = self._ends = math.inf
        self.calls = self.failures = self.slow = 0

    def add(self, now: float, failed: bool, slow: bool) -> int:
        """Count one call and return the number of calls in the window."""
        if not self._begins <= now < self._ends:
            self.advance(now)
        bucket = self._bucket
        bucket[0] += 1
        self.calls += 1
        if failed:
            bucket[1] += 1
            self.failures += 1
        if slow:
            bucket[2] += 1
            self.slow += 1
        return self.calls

    def advance(self, now: float) -> None:
        """Forget outcomes that are too old. Forget all of them if the clock went back, because then it is another event loop's clock."""
        if now < self._begins:
            self.clear()
        period = int(now // self._period)
        for past in range(max(self._head, period - BUCKETS) + 1, period + 1):
            bucket = self._buckets[past % BUCKETS]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow -= bucket[2]
            bucket[:] = (0, 0, 0)
        self._head = period
        self._bucket = self._buckets[period % BUCKETS]
        self._begins, self._ends = period * self._period, (period + 1) * self._period

    def subtract(self, other: SlidingWindow, now: float) -> None:
        """Subtract the outcomes of another window of the same length."""
        self.advance(now)
        other.advance(now)
        for mine, theirs in zip(self._buckets, other._buckets, strict=True):
            for kind in range(3):
                mine[kind] -= theirs[kind]
        self.calls -= other.calls
        self.failures -= other.failures
        self.slow -= other.slow

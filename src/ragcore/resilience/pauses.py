"""Pauses that a dependency asked for, for example with a 429. Until a pause is over, no call is made to the dependency or to one of its models."""

from __future__ import annotations

import math
from collections import OrderedDict

from ragcore.resilience.failure import LONGEST_RETRY_AFTER

__all__ = ["Pauses"]


class Pauses:
    """The pauses by key, for at most `most` keys. A pause lasts at most 120 s, even if the dependency asked for more.

    Invariant: a pause that is over may still be stored and has no effect. The next check of its key removes it.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._until: OrderedDict[str | None, float] = OrderedDict()

    @property
    def any(self) -> bool:
        """Whether the dependency may have asked for a pause."""
        return bool(self._until)

    def until(self, key: str | None, now: float) -> float:
        """Return the point in time at which the pause of this key is over; minus infinity if there is none."""
        if not self._until:
            return -math.inf
        until = self._until.get(key, -math.inf)
        if not now < until <= now + LONGEST_RETRY_AFTER:  # it is over, or comes from another event loop's clock
            self._until.pop(key, None)
            return -math.inf
        return until

    def longest(self, now: float) -> float:
        """Return the seconds until all pauses are over."""
        return max(0.0, max(self._until.values(), default=now) - now)

    def add(self, key: str | None, seconds: float, now: float) -> None:
        """Pause a key for `seconds`. A stored pause that ends later is kept."""
        until = now + min(seconds, LONGEST_RETRY_AFTER)
        self._until[key] = max(self._until.get(key, -math.inf), until)
        self._until.move_to_end(key)
        while len(self._until) > self._most:
            self._until.popitem(last=False)

"""Pauses that a dependency asked for (a 429): nobody asks it, or one model of it, before they are over."""

from __future__ import annotations

import math
from collections import OrderedDict

from ragcore.resilience.failure import LONGEST_RETRY_AFTER

__all__ = ["Pauses"]


class Pauses:
    """Until when each key is paused, at most `most` of them; a pause is at most 120 s, whatever the dependency says.

    Invariant: a pause that is over may still stand here, and means nothing: it is dropped when somebody asks for its key.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._until: OrderedDict[str | None, float] = OrderedDict()

    @property
    def any(self) -> bool:
        """Whether there may be one."""
        return bool(self._until)

    def until(self, key: str | None, now: float) -> float:
        """The point in time at which the pause of this key is over; minus infinity if there is none."""
        if not self._until:
            return -math.inf
        until = self._until.get(key, -math.inf)
        if not now < until <= now + LONGEST_RETRY_AFTER:  # over, or of another event loop's clock
            self._until.pop(key, None)
            return -math.inf
        return until

    def longest(self, now: float) -> float:
        """Seconds until all are over."""
        return max(0.0, max(self._until.values(), default=now) - now)

    def add(self, key: str | None, seconds: float, now: float) -> None:
        """Pause a key for so many seconds; one that lasts longer stays."""
        until = now + min(seconds, LONGEST_RETRY_AFTER)
        self._until[key] = max(self._until.get(key, -math.inf), until)
        self._until.move_to_end(key)
        while len(self._until) > self._most:
            self._until.popitem(last=False)

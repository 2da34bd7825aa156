"""The limits of the calls in the shadow, which the other side answers only to compare the answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ragcore.errors import ConfigurationError
from ragcore.value import Value

__all__ = ["Shadow", "ShadowPlaces"]

MINUTE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow(Value):
    """The comparison of answers. After the caller has its answer, the other side answers some questions, too. No caller sees these answers.

    While the share of a rollout is 0, the candidate answers in the shadow of the stable side. At a larger share, the stable side answers in the shadow of the
    candidate, to measure how often the figures that users see differ.

    Args:
        share: the share of the questions to compare, above 0 and at most 1. All limits below apply as well.
        concurrency: the largest number of such calls at once. If all places are taken, a question is not compared.
        per_minute: the largest number of such calls in a minute, in this process. It limits the cost.
        timeout: seconds for each such call.

    Raises:
        ConfigurationError: a value is not in its range.
    """

    share: float = 1.0
    concurrency: int = 2
    per_minute: int = 60
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigurationError(f"share is {self.share!r}: it must be above 0 and at most 1")
        if self.concurrency < 1 or self.per_minute < 1 or not 0 < self.timeout < math.inf:
            raise ConfigurationError(
                f"concurrency is {self.concurrency}, per_minute {self.per_minute} and timeout {self.timeout}: all must be positive and finite"
            )


class ShadowPlaces:
    """The places and the rate of a `Shadow`.

    Source of the rate: J. Turner, "New directions in communications" (1986): the leaky bucket as a meter.
    """

    def __init__(self, shadow: Shadow) -> None:
        self._shadow = shadow
        self._running = 0
        self._level, self._at = 0.0, -math.inf
        self._due = 0.0

    def take(self, now: float) -> bool:
        """Take a place, if this question is to be compared and a place is free. Give it back with `give_back`."""
        self._due += self._shadow.share  # every n-th question, not at random
        if self._due < 1 - 1e-9:
            return False
        self._due -= 1
        level = max(0.0, self._level - (now - self._at) * self._shadow.per_minute / MINUTE)
        if self._running >= self._shadow.concurrency or level + 1 > self._shadow.per_minute:
            return False
        self._level, self._at = level + 1, now
        self._running += 1
        return True

    def give_back(self) -> None:
        """Give a place back."""
        self._running -= 1

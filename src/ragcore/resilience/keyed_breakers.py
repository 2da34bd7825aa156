"""The breakers of one policy: the breaker of the policy, and a breaker with the same settings for each key (a model or a replica), up to a limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from ragcore.resilience.breaker import CircuitBreaker

__all__ = ["KeyedBreakers"]


class KeyedBreakers:
    """A breaker for each key, with the settings of `pattern`. At most `most` breakers are kept; the least recently used one is forgotten first."""

    def __init__(self, pattern: CircuitBreaker, *, most: int) -> None:
        self.pattern = pattern
        self._most = most
        self._keyed: OrderedDict[str, CircuitBreaker] = OrderedDict()

    def get(self, key: str | None) -> CircuitBreaker:
        """Return the breaker for calls with this key. While `pattern` is isolated, it applies to all keys."""
        if key is None or self.pattern.state == "isolated":
            return self.pattern
        breaker = self._keyed.get(key)
        if breaker is None:
            breaker = self._keyed[key] = self.pattern.like(f"{self.pattern.name}[{key}]")
            while len(self._keyed) > self._most:
                self._keyed.popitem(last=False)
        else:
            self._keyed.move_to_end(key)
        return breaker

    def __iter__(self) -> Iterator[tuple[str, CircuitBreaker]]:
        return iter(self._keyed.items())

"""The breakers of one policy: one, and one like it for each key (a model, a replica), a bounded number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from ragcore.resilience.breaker import CircuitBreaker

__all__ = ["KeyedBreakers"]


class KeyedBreakers:
    """A breaker for each key, made like the one that is given, at most `most`; the one used longest ago is forgotten first."""

    def __init__(self, pattern: CircuitBreaker, *, most: int) -> None:
        self.pattern = pattern
        self._most = most
        self._keyed: OrderedDict[str, CircuitBreaker] = OrderedDict()

    def get(self, key: str | None) -> CircuitBreaker:
        """The breaker that calls with this key pass; isolated by hand, the one that was given stands for all."""
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

"""Values that are remembered for a while, for so many keys."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

import anyio

__all__ = ["Recent"]

T = TypeVar("T")


class Recent(Generic[T]):
    """At most `most` values, each for `seconds`; the one that was put longest ago is forgotten first.

    Invariant: the values stand in the order in which they were put, so the first one is the oldest. Those that have run out are not looked for: they
    are put anew, or pushed out.
    """

    def __init__(self, *, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._values: OrderedDict[str, tuple[T, float]] = OrderedDict()

    def get(self, key: str) -> T | None:
        """The value, or None if there is none of late."""
        known = self._values.get(key)
        return None if known is None or known[1] < anyio.current_time() else known[0]

    def put(self, key: str, value: T) -> None:
        """Remember a value from now on."""
        self._values[key] = (value, anyio.current_time() + self._seconds)
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)

    def drop(self, key: str) -> None:
        """Forget a value."""
        self._values.pop(key, None)

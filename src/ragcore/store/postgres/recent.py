"""A small cache whose values expire."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

import anyio

__all__ = ["Recent"]

T = TypeVar("T")


class Recent(Generic[T]):
    """Keeps at most `most` values, each for `seconds`. If there are more, the oldest is dropped.

    Invariant: the values are in the order of `put`, so the first one is the oldest. An expired value stays until it is replaced, or dropped as the oldest.
    """

    def __init__(self, *, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._values: OrderedDict[str, tuple[T, float]] = OrderedDict()

    def get(self, key: str) -> T | None:
        """Return the value; None if there is none or it has expired."""
        known = self._values.get(key)
        return None if known is None or known[1] < anyio.current_time() else known[0]

    def put(self, key: str, value: T) -> None:
        """Store a value; its `seconds` begin now."""
        self._values[key] = (value, anyio.current_time() + self._seconds)
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)

    def drop(self, key: str) -> None:
        """Remove a value."""
        self._values.pop(key, None)

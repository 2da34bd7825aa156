"""The writes of this process that replicas may not have replayed yet, by tenant."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable

import anyio

__all__ = ["RecentWrites"]

# Largest number of tenants with a mark of their own. If there are more, the oldest marks are merged into one mark, which applies to every tenant.
MOST_TENANTS = 10_000


class RecentWrites:
    """Remembers, for a limited time, the position in the primary's log that a replica must have replayed before it may answer reads of a tenant.

    Invariant: after `add(tenant, position)`, and until `seconds` have passed or `replayed(p)` was called with p ≥ position, `needed` returns at least
    `position` for this tenant. The number of marks is limited; beyond the limit, `needed` returns more than necessary, never less.

    Args:
        seconds: the longest time for which a write is remembered.
        most: largest number of tenants with a mark of their own.
        now: the clock.
    """

    def __init__(
        self, seconds: float, *, most: int = MOST_TENANTS, now: Callable[[], float] = anyio.current_time
    ) -> None:
        self._seconds = seconds
        self._most = most
        self._now = now
        # (position, end of the mark) by tenant, in the order of the ends: each `add` moves its tenant to the end.
        self._marks: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._everyone = (0.0, -math.inf)

    def add(self, tenant: str, position: float | None) -> None:
        """Remember a write.

        Args:
            tenant: the tenant.
            position: the position in the log after the write. None: unknown, so no replica answers until the time has passed.
        """
        until = self._now() + self._seconds
        known = self._marks.get(tenant, (0.0, 0.0))[0]
        self._marks[tenant] = (max(known, math.inf if position is None else position), until)
        self._marks.move_to_end(tenant)
        while len(self._marks) > self._most:
            oldest, end = self._marks.popitem(last=False)[1]
            self._everyone = (max(oldest, self._everyone[0]), max(end, self._everyone[1]))

    def needed(self, tenants: Iterable[str]) -> float:
        """Return the position that a replica must have replayed for a read of these tenants; 0 if any replica may answer."""
        if not self:
            return 0.0
        return max(self._everyone[0], *(self._marks.get(tenant, (0.0, 0.0))[0] for tenant in tenants), 0.0)

    def replayed(self, position: float) -> None:
        """Forget the writes that all replicas have replayed."""
        for tenant in [tenant for tenant, (needed, _) in self._marks.items() if needed <= position]:
            del self._marks[tenant]
        if self._everyone[0] <= position:
            self._everyone = (0.0, -math.inf)

    def __bool__(self) -> bool:
        """Whether a write is remembered. Also forgets those whose time has passed."""
        if not self._marks and not self._everyone[0]:  # almost always
            return False
        now = self._now()
        while self._marks and next(iter(self._marks.values()))[1] <= now:
            self._marks.popitem(last=False)
        if self._everyone[1] <= now:
            self._everyone = (0.0, -math.inf)
        return bool(self._marks) or self._everyone[0] > 0

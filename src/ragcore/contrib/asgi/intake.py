"""Room for what is read and looked up, by tenant: bodies that come slowly, bytes that they hold, reports that read much.

Nobody waits here: who has as much as a tenant may have is told to come back, so that the others' room is there when they come.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ragcore.contrib.asgi.problem import Refused
from ragcore.contrib.asgi.public import FULL
from ragcore.types import LimitState

__all__ = ["Intake", "Room", "rate_limits"]

MEBI = 2**20


def rate_limits(states: Sequence[LimitState], *, counted: bool = False) -> dict[str, str]:
    """The headers that tell a program how much it may still ask; {} without limits.

    Args:
        counted: whether this request is in the numbers already.

    Source: draft-ietf-httpapi-ratelimit-headers-10.
    """
    if not states:
        return {}
    own = 0 if counted else 1
    left = [
        f'"{one.name}";r={max(0, one.remaining - (own if one.name == "requests" else 0))};t={math.ceil(one.reset)}'
        for one in states
    ]
    return {
        "ratelimit-policy": ", ".join(f'"{one.name}";q={one.limit};w=60' for one in states),
        "ratelimit": ", ".join(left),
    }


class Room:
    """So much at once, and so much of it for each tenant.

    Args:
        most: altogether.
        of_a_tenant: for each.
    """

    def __init__(self, most: int, *, of_a_tenant: int) -> None:
        self._most = most
        self._of_a_tenant = of_a_tenant
        self._taken: Counter[str] = Counter()
        self._sum = 0

    @property
    def taken(self) -> int:
        """How much is taken now."""
        return self._sum

    def take(self, tenant: str, amount: int = 1) -> None:
        """Take some of it.

        Raises:
            Refused: there is no more, with status 429.
        """
        if self._taken[tenant] + amount > self._of_a_tenant or self._sum + amount > self._most:
            raise Refused(429, "Overloaded", FULL, {"Retry-After": "1"})
        self._taken[tenant] += amount
        self._sum += amount

    def give_back(self, tenant: str, amount: int = 1) -> None:
        """Give back what was taken."""
        self._sum -= amount
        self._taken[tenant] -= amount
        if not self._taken[tenant]:
            del self._taken[tenant]

    @contextmanager
    def place(self, tenant: str) -> Iterator[None]:
        """Take one, for a block."""
        self.take(tenant)
        try:
            yield
        finally:
            self.give_back(tenant)


class Intake:
    """The bodies of requests.

    Args:
        readings: bodies that may be read at once; a quarter of them for one tenant, which may stand for many people who ask at the same moment.
        mebibytes: that bodies may hold, from their first byte to the end of their request; a quarter of them for one tenant.
    """

    def __init__(self, *, readings: int = 256, mebibytes: int = 64) -> None:
        self._readings = Room(readings, of_a_tenant=max(1, readings // 4))
        self._bytes = Room(mebibytes * MEBI, of_a_tenant=mebibytes * MEBI // 4)

    @contextmanager
    def request(self, tenant: str) -> Iterator[Body]:
        """The body of a request; what it holds is given back at the end of the block."""
        body = Body(self._readings, self._bytes, tenant)
        try:
            yield body
        finally:
            body.end()


class Body:
    """What one request holds."""

    def __init__(self, readings: Room, held: Room, tenant: str) -> None:
        self._readings = readings
        self._held = held
        self._tenant = tenant
        self._bytes = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A place for as long as the body is read."""
        with self._readings.place(self._tenant):
            yield

    def hold(self, count: int) -> None:
        """Count bytes that are in memory now."""
        self._held.take(self._tenant, count)
        self._bytes += count

    def end(self) -> None:
        """Give them back."""
        self._held.give_back(self._tenant, self._bytes)
        self._bytes = 0

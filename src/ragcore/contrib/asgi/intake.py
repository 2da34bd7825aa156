"""Limits for each tenant: the number of request bodies that are being read, the bytes that they hold, and the number of expensive reports.

No request waits here: a request beyond its tenant's limit gets status 429, so that room is left for other tenants.
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
    """Return the headers that report how much of the rate limits remains; {} without limits.

    Args:
        counted: whether the states already count this request.

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
    """Limits an amount that is in use at once. There is a limit for all tenants together, and a lower one for each tenant.

    Args:
        most: the limit for all tenants together.
        of_a_tenant: the limit for each tenant.
    """

    def __init__(self, most: int, *, of_a_tenant: int) -> None:
        self._most = most
        self._of_a_tenant = of_a_tenant
        self._taken: Counter[str] = Counter()
        self._sum = 0

    @property
    def taken(self) -> int:
        """The amount in use."""
        return self._sum

    def take(self, tenant: str, amount: int = 1) -> None:
        """Take an amount.

        Raises:
            Refused: a limit is reached (status 429).
        """
        if self._taken[tenant] + amount > self._of_a_tenant or self._sum + amount > self._most:
            raise Refused(429, "Overloaded", FULL, {"Retry-After": "1"})
        self._taken[tenant] += amount
        self._sum += amount

    def give_back(self, tenant: str, amount: int = 1) -> None:
        """Give an amount back."""
        self._sum -= amount
        self._taken[tenant] -= amount
        if not self._taken[tenant]:
            del self._taken[tenant]

    @contextmanager
    def place(self, tenant: str) -> Iterator[None]:
        """Take an amount of 1 for a block."""
        self.take(tenant)
        try:
            yield
        finally:
            self.give_back(tenant)


class Intake:
    """Limits the bodies of requests. A tenant may use a quarter of each limit, since a tenant may be an organization with many users.

    Args:
        readings: number of bodies that may be read at once.
        mebibytes: memory that bodies may hold, from their first byte to the end of their request.
    """

    def __init__(self, *, readings: int = 256, mebibytes: int = 64) -> None:
        self._readings = Room(readings, of_a_tenant=max(1, readings // 4))
        self._bytes = Room(mebibytes * MEBI, of_a_tenant=mebibytes * MEBI // 4)

    @contextmanager
    def request(self, tenant: str) -> Iterator[Body]:
        """Count the body of a request for a block. Its bytes are given back at the end."""
        body = Body(self._readings, self._bytes, tenant)
        try:
            yield body
        finally:
            body.end()


class Body:
    """The bytes that one request holds."""

    def __init__(self, readings: Room, held: Room, tenant: str) -> None:
        self._readings = readings
        self._held = held
        self._tenant = tenant
        self._bytes = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold a place while the body is read."""
        with self._readings.place(self._tenant):
            yield

    def hold(self, count: int) -> None:
        """Count further bytes in memory."""
        self._held.take(self._tenant, count)
        self._bytes += count

    def end(self) -> None:
        """Give all bytes back."""
        self._held.give_back(self._tenant, self._bytes)
        self._bytes = 0

"""Limits the number of questions that are answered at once, with fair shares for all tenants."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from ragcore.contrib.asgi.problem import Refused
from ragcore.contrib.asgi.public import FULL
from ragcore.resilience import Bulkhead, BulkheadSnapshot

__all__ = ["Places"]

logger: logging.Logger = logging.getLogger("ragcore.asgi")


class Places:
    """The places of an application for calls that run at once.

    Args:
        most: number of places.
        seconds: longest wait for a place.
    """

    def __init__(self, most: int, *, seconds: float) -> None:
        self._bulkhead = Bulkhead(most, queue=most, name="the application")
        self._seconds = seconds

    def snapshot(self) -> BulkheadSnapshot:
        """Return the state of the limit."""
        return self._bulkhead.snapshot()

    @asynccontextmanager
    async def place(self, tenant: str) -> AsyncIterator[None]:
        """Hold a place for a block. A tenant that already has its share of places is refused instead of queued, to leave room for other tenants.

        Raises:
            Refused: the tenant has its share (status 429).
            Overloaded, DeadlineExceeded: there was no place in time.
        """
        places = self._bulkhead
        if not places.try_acquire(tenant):
            if places.holds(tenant) >= places.share(tenant):
                logger.debug("concurrency limit max_calls reached (%d running)", places.inside)
                raise Refused(429, "Overloaded", FULL, {"Retry-After": "1"})
            await places.acquire(anyio.current_time() + self._seconds, flow=tenant)
        try:
            yield
        finally:
            # Report no service time. A bulkhead would use it to refuse calls that can't end in time, but a chat's timeout starts only after the wait.
            places.release(flow=tenant)

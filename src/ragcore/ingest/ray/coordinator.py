"""The state of an ingest that all workers share: rate limits, the ids of documents, and the number of starts of each batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from ragcore.resilience import RateLimiter

__all__ = ["Coordinator", "SharedRateLimiter", "digest", "start_coordinator"]


def digest(*parts: object) -> bytes:
    """Return a short hash of a few values, so that long ids take little memory."""
    return blake2b(repr(parts).encode(), digest_size=16).digest()


class Coordinator:
    """Keeps the shared state of one run. It runs as one actor on the driver's node, so it ends only when the driver ends.

    Args:
        requests_per_minute, tokens_per_minute: limits of the embedding provider for all workers together; None: no limit.
    """

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._limiter = RateLimiter(requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute)
        self._origins: dict[bytes, bytes] = {}
        self._begun: Counter[bytes] = Counter()

    async def turn(self, tokens: int) -> tuple[float, float]:
        """Reserve a time for a request. Return the seconds until then, and by how many seconds pauses have put off requests so far."""
        return self._limiter.reserve(tokens), self._limiter.put_off

    async def put_off(self) -> float:
        """Return by how many seconds pauses have put off requests so far."""
        return self._limiter.put_off

    async def charge(self, requests: int, tokens: int) -> None:
        """Count requests that were sent without a reservation."""
        self._limiter.charge(requests=requests, tokens=tokens)

    async def pause(self, seconds: float) -> None:
        """Let no worker send a request for this number of seconds."""
        self._limiter.pause(seconds)

    async def claim(self, claims: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """Claim ids of documents. Return for each whether it was free.

        Args:
            claims: pairs of a document's id and its origin, as digests. A task that Ray repeats has the same origins, so it may claim its ids again.
        """
        return [self._origins.setdefault(name, origin) == origin for name, origin in claims]

    async def begin(self, batch: bytes) -> int:
        """Count the start of a batch. Return the number of starts since its last end: if it is above 1, a worker died."""
        self._begun[batch] += 1
        return self._begun[batch]

    async def end(self, batches: Sequence[bytes]) -> None:
        """Forget batches that are complete."""
        for batch in batches:
            self._begun.pop(batch, None)


def start_coordinator(ray: Any, *, requests_per_minute: int | None, tokens_per_minute: int | None) -> Any:
    """Start the coordinator on the node of this process, and return its handle."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_concurrency=1_000, scheduling_strategy=here)(Coordinator)
    return actor.remote(requests_per_minute, tokens_per_minute)


class SharedRateLimiter(RateLimiter):
    """The rate limiter of one worker. The coordinator makes all decisions.

    Args:
        coordinator: the handle of the coordinator's actor.
        requests_per_minute, tokens_per_minute: the coordinator's limits.
    """

    def __init__(
        self, coordinator: Any, *, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> None:
        super().__init__(requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute)
        self._coordinator = coordinator

    def charge(self, *, requests: int = 1, tokens: int = 0) -> None:
        """Count requests that were sent without a reservation. Does not wait for the coordinator."""
        self._coordinator.charge.remote(requests, tokens)

    def pause(self, seconds: float) -> None:
        """Let no worker send a request for this number of seconds. Does not wait for the coordinator."""
        self._coordinator.pause.remote(seconds)

    async def _turn(self, tokens: int) -> tuple[float, float]:
        wait, put_off = await self._coordinator.turn.remote(tokens)
        return float(wait), float(put_off)

    async def _all_put_off(self) -> float:
        return float(await self._coordinator.put_off.remote())

"""A rate limiter: at most so many requests and tokens a minute. It spreads the requests over the minute instead of sending them in one burst.

Each request reserves its turn at once and then waits for it, so requests get their turns in the order in which they arrive.

Source: J. Turner, "New directions in communications" (1986): the token bucket. A bucket that holds `burst` and gains `rate` a second lets at most
`burst + 60 * rate` pass in any minute, if no request is larger than `burst`. Both are chosen so that this sum is the limit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel

from ragcore.errors import ConfigurationError
from ragcore.events import Event, subscribe
from ragcore.resilience.failure import LONGEST_RETRY_AFTER
from ragcore.resilience.policy import Policy

__all__ = ["RateLimiter"]

MINUTE = 60.0
# The share of a minute's limit that may be used at once.
BURST = 0.1


class _Bucket:
    """One limit.

    Invariant: `_level` is the level at `_at`, the time at which the latest request passes. It may lie in the future, so requests get their turns in order.
    """

    def __init__(self, limit: int) -> None:
        self.burst = max(1.0, BURST * limit)
        # Amounts are whole numbers. So with a burst of 1, less than one more than the limit is no more than the limit.
        self._rate = (limit if self.burst == 1.0 else limit - self.burst) / MINUTE
        self._level = self.burst
        self._at = -math.inf

    def ready(self, amount: float, now: float) -> float:
        """Return the first time, from `now` on and after the latest request, at which an amount is covered."""
        at = max(now, self._at)
        return at + max(0.0, amount - self._filled(at, amount)) / self._rate

    def take(self, amount: float, at: float) -> None:
        """Take an amount at a time, which may not be before the latest request."""
        at = max(at, self._at)
        self._level, self._at = self._filled(at, amount) - amount, at

    def put_off(self, seconds: float, now: float) -> None:
        """Put the turns that have not come yet off by so many seconds."""
        if self._at > now:
            self._at += seconds

    def _filled(self, at: float, amount: float) -> float:
        # For an amount that is larger than the burst, the bucket fills further.
        if at <= self._at or self._at == -math.inf:
            return self._level
        return min(max(self.burst, amount), self._level + (at - self._at) * self._rate)


class RateLimiter:
    """Limits the requests and the tokens a minute that go to a provider, and makes all callers wait if the provider asks for a pause.

    In any 60 seconds, at most the limit passes. A tenth of a limit may pass at once; the rest is spread evenly. A limiter belongs to one event loop.

    Args:
        requests_per_minute: the largest number of requests a minute, at least 1; None: no limit.
        tokens_per_minute: the largest number of tokens a minute, at least 1; None: no limit. No request should have more
            than a tenth of it: see `most_tokens`.

    Attributes:
        put_off: the seconds by which pauses have put off waiting requests, in all.

    Raises:
        ConfigurationError: a limit is not a whole number of at least 1.

    Examples:
        ```python
        limiter = RateLimiter(requests_per_minute=3_000, tokens_per_minute=1_000_000)
        await rag.add(documents, tenant="acme", rate_limiter=limiter)
        ```
    """

    def __init__(self, *, requests_per_minute: int | None = None, tokens_per_minute: int | None = None) -> None:
        for name, limit in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)):
            if limit is not None and (isinstance(limit, bool) or not (isinstance(limit, int) and limit >= 1)):
                raise ConfigurationError(f"{name} is {limit!r}: it must be a whole number, at least 1, or None")
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self._requests = None if requests_per_minute is None else _Bucket(requests_per_minute)
        self._tokens = None if tokens_per_minute is None else _Bucket(tokens_per_minute)
        self._paused_until = -math.inf
        self.put_off = 0.0
        self._followed: Counter[str] = Counter()
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def most_tokens(self) -> float:
        """The largest number of tokens that can pass at once. A larger request should be split. Infinity without a limit."""
        return math.inf if self._tokens is None else self._tokens.burst

    async def acquire(self, tokens: int = 0) -> None:
        """Wait for the turn of a request with so many tokens, and for the end of a pause.

        A caller that is cancelled while it waits keeps its reservation, so it makes the others slower and never faster.
        """
        await anyio.lowlevel.checkpoint()
        wait, known = await self._turn(tokens)
        # A pause that begins while the caller waits puts its turn off.
        while wait > 0:
            await anyio.sleep(wait)
            known, before = await self._all_put_off(), known
            wait = known - before

    def reserve(self, tokens: int = 0) -> float:
        """Reserve the turn of a request, and return the seconds until then. `acquire` waits for it as well."""
        now = anyio.current_time()
        taken = self._taken(1, tokens)
        # Both limits count the request at the time at which it passes, which the other limit or a pause may put off.
        at = max(now, self._paused_until, *(bucket.ready(amount, now) for bucket, amount in taken))
        for bucket, amount in taken:
            bucket.take(amount, at)
        return at - now

    def charge(self, *, requests: int = 1, tokens: int = 0) -> None:
        """Count requests that were sent without a turn, such as retries. Later requests wait for them."""
        now = anyio.current_time()
        for bucket, amount in self._taken(requests, tokens):
            bucket.take(amount, now)

    def pause(self, seconds: float) -> None:
        """Let no request pass for so many seconds, at most 120. A pause that ends later stays.

        The turns of callers that wait are put off by as much, so they don't pass together at the end of the pause.
        """
        now = anyio.current_time()
        until = now + min(seconds, LONGEST_RETRY_AFTER)
        longer = until - max(now, self._paused_until)
        if longer <= 0:
            return
        self._paused_until = until
        self.put_off += longer
        for bucket, _ in self._taken(0, 0):
            bucket.put_off(longer, now)

    def remaining_pause(self) -> float:
        """Return the seconds until the pause is over."""
        return max(0.0, self._paused_until - anyio.current_time())

    @contextmanager
    def following(self, policy: Policy | None) -> Iterator[None]:
        """Count the retries of a policy, and keep the pauses that its dependency asks for, during the block. Blocks may overlap.

        Args:
            policy: the policy of the embedder or model; None: it has none, so the limiter learns nothing from it.
        """
        if policy is None:
            yield
            return
        self._followed[policy.name] += 1
        if self._unsubscribe is None:
            self._unsubscribe = subscribe(self._listen)
        try:
            yield
        finally:
            self._followed[policy.name] -= 1
            if not self._followed.total():
                self._unsubscribe()
                self._unsubscribe = None

    def _listen(self, event: Event) -> None:
        if not self._followed[event.source]:
            return
        if event.name == "policy.paused":
            self.pause(event.data["seconds"])
        elif event.name == "retry.attempt":
            self.charge()

    def _taken(self, requests: int, tokens: int) -> list[tuple[_Bucket, int]]:
        each = ((self._requests, requests), (self._tokens, tokens))
        return [(bucket, amount) for bucket, amount in each if bucket is not None]

    async def _turn(self, tokens: int) -> tuple[float, float]:
        """Reserve a turn. Return the seconds until then, and what `put_off` is now."""
        return self.reserve(tokens), self.put_off

    async def _all_put_off(self) -> float:
        return self.put_off

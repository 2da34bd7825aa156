"""Retries, on tenacity: full jitter, bounded by attempts, by the deadline and by a budget.

The time limit is the deadline's affair: tenacity's own `stop_after_delay` looks only after an attempt, and reads real time.

Sources: M. Brooker, "Exponential Backoff and Jitter" (AWS, 2015): full jitter; Finagle's RetryBudget: a share of the calls rather than a
number of tries for each.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import anyio

from ragcore.resilience.snapshot import RetryBudgetSnapshot

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["RetryBudget", "RetryPolicy"]

T = TypeVar("T")

# Server delays are a floor; a little on top keeps callers that were refused together from coming back together.
JITTER_ON_RETRY_AFTER = 0.1


class RetryBudget:
    """Retries as a share of calls: each call deposits `ratio` of a retry, each retry takes a whole one.

    Args:
        ratio: retries per call in the long run, at least 0.
        reserve: retries that are there from the start, and the most that can be saved up.

    When it is empty the first error comes out at once: when everything fails, retrying everything makes it worse.
    """

    def __init__(self, *, ratio: float = 0.2, reserve: int = 10) -> None:
        if ratio < 0 or reserve < 0:
            raise ValueError("ratio and reserve are at least 0")
        self.ratio = ratio
        self.reserve = reserve
        self._balance = float(reserve)
        self._spent = 0
        self._refused = 0

    @property
    def balance(self) -> float:
        """Retries that could be made now."""
        return self._balance

    def deposit(self) -> None:
        """For a call's first attempt, never for a retry."""
        if self._balance < self.reserve:
            self._balance = min(self._balance + self.ratio, float(self.reserve))

    def withdraw(self) -> bool:
        """Take one retry, if there is one."""
        if self._balance < 1:
            self._refused += 1
            return False
        self._balance -= 1
        self._spent += 1
        return True

    def snapshot(self) -> RetryBudgetSnapshot:
        """Balance and counters, serialisable."""
        return RetryBudgetSnapshot(
            balance=self._balance, reserve=self.reserve, ratio=self.ratio, spent=self._spent, refused=self._refused
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often to try, and how long to wait in between.

    Attributes:
        attempts: altogether, the first included; at least 1.
        backoff: seconds; the wait before retry n is drawn from [0, min(backoff · 2^(n-1), max_backoff)].
        max_backoff: cap of that, in seconds.
        budget: shared by whoever shares the object; None: each policy has one of its own.
    """

    attempts: int = 3
    backoff: float = 0.25
    max_backoff: float = 8.0
    budget: RetryBudget | None = None

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.backoff < 0 or self.max_backoff < self.backoff:
            raise ValueError("attempts is at least 1, and 0 <= backoff <= max_backoff")

    def wait_before(self, retry: int, retry_after: float | None) -> float:
        """Seconds to wait before the retry with this number (from 1); never less than the dependency asked for."""
        wait = random.uniform(0.0, min(self.backoff * 2 ** min(retry - 1, 30), self.max_backoff))
        if retry_after is None:
            return wait
        return max(wait, retry_after * random.uniform(1.0, 1.0 + JITTER_ON_RETRY_AFTER))

    async def run(
        self, attempt: Callable[[], Awaitable[T]], *, first: Exception, wait: Callable[[Exception], float | None]
    ) -> T:
        """Go on after a first attempt that failed with `first`.

        Args:
            attempt: one more attempt; its error decides with `wait` whether there is another.
            first: the error of the attempt before.
            wait: seconds before the next attempt, given the error before it; None: don't, let the error out.

        What comes out is the last attempt's error, as itself.
        """
        import tenacity  # only once something has failed; made importable when a Policy is made

        pending: float = 0.0

        def may_pass(error: BaseException) -> bool:
            nonlocal pending
            if not isinstance(error, Exception):
                return False  # a cancellation is never retried
            seconds = wait(error)
            pending = seconds or 0.0
            return seconds is not None

        failed_once = False

        async def again() -> T:
            nonlocal failed_once
            if not failed_once:  # tenacity's first attempt is the one that failed already
                failed_once = True
                raise first
            return await attempt()

        def pause(_: RetryCallState) -> float:
            return pending

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.attempts),
            retry=tenacity.retry_if_exception(may_pass),
            wait=pause,
            sleep=anyio.sleep,
            reraise=True,
        )
        return await retrying(again)

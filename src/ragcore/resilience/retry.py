"""Retries with tenacity and full jitter. The number of attempts, the deadline and a budget limit them.

The deadline limits the time. tenacity's own `stop_after_delay` is not used: it checks the time only after an attempt and reads the system clock.

Sources: M. Brooker, "Exponential Backoff and Jitter" (AWS, 2015) for full jitter; Finagle's RetryBudget for retries as a share of the calls.
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

# The wait is the server's delay plus a random part of at most this share. So callers that were refused together don't retry together.
JITTER_ON_RETRY_AFTER = 0.1


class RetryBudget:
    """Limits retries to a share of the calls: each call adds `ratio` to the balance, each retry takes 1.

    Args:
        ratio: retries per call in the long run, at least 0.
        reserve: the balance at the start, which is also its upper limit.

    When the balance is used up, an error is raised without a retry: in an outage, retries of all calls would make the outage worse.
    """

    def __init__(self, *, ratio: float = 0.2, reserve: int = 10) -> None:
        if ratio < 0 or reserve < 0:
            raise ValueError("ratio and reserve must be at least 0")
        self.ratio = ratio
        self.reserve = reserve
        self._balance = float(reserve)
        self._spent = 0
        self._refused = 0

    @property
    def balance(self) -> float:
        """The number of retries that are possible now."""
        return self._balance

    def deposit(self) -> None:
        """Add to the balance for a call's first attempt. Never use it for a retry."""
        if self._balance < self.reserve:
            self._balance = min(self._balance + self.ratio, float(self.reserve))

    def withdraw(self) -> bool:
        """Take one retry from the balance. Return whether there was one."""
        if self._balance < 1:
            self._refused += 1
            return False
        self._balance -= 1
        self._spent += 1
        return True

    def snapshot(self) -> RetryBudgetSnapshot:
        """Return balance and counters, serialisable."""
        return RetryBudgetSnapshot(
            balance=self._balance, reserve=self.reserve, ratio=self.ratio, spent=self._spent, refused=self._refused
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The number of attempts and the wait between them.

    Attributes:
        attempts: the number of attempts including the first, at least 1.
        backoff: seconds. The wait before retry n is random in [0, min(backoff · 2^(n-1), max_backoff)].
        max_backoff: the upper limit of that range, in seconds.
        budget: the retry budget. Policies that have the same object share its balance. None: each policy has its own budget.
    """

    attempts: int = 3
    backoff: float = 0.25
    max_backoff: float = 8.0
    budget: RetryBudget | None = None

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.backoff < 0 or self.max_backoff < self.backoff:
            raise ValueError("attempts must be at least 1, and 0 <= backoff <= max_backoff")

    def wait_before(self, retry: int, retry_after: float | None) -> float:
        """Return the seconds to wait before a retry, at least as long as the dependency asked for.

        Args:
            retry: the number of the retry, from 1.
            retry_after: the seconds that the dependency asked for; None: it asked for none.
        """
        wait = random.uniform(0.0, min(self.backoff * 2 ** min(retry - 1, 30), self.max_backoff))
        if retry_after is None:
            return wait
        return max(wait, retry_after * random.uniform(1.0, 1.0 + JITTER_ON_RETRY_AFTER))

    async def run(
        self, attempt: Callable[[], Awaitable[T]], *, first: Exception, wait: Callable[[Exception], float | None]
    ) -> T:
        """Make further attempts after a first one that failed with `first`. Raise the last attempt's error unchanged.

        Args:
            attempt: makes one attempt.
            first: the error of the first attempt.
            wait: returns the seconds before the next attempt, given the last error; None: raise the error instead.
        """
        import tenacity  # imported here, because only a failed call needs it; a Policy imports it when it is made

        pending: float = 0.0

        def wants_retry(error: BaseException) -> bool:
            nonlocal pending
            if not isinstance(error, Exception):
                return False  # a cancellation is never retried
            seconds = wait(error)
            pending = seconds or 0.0
            return seconds is not None

        failed_once = False

        async def again() -> T:
            nonlocal failed_once
            if not failed_once:  # tenacity's first attempt stands for the one that has already failed
                failed_once = True
                raise first
            return await attempt()

        def pause(_: RetryCallState) -> float:
            return pending

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.attempts),
            retry=tenacity.retry_if_exception(wants_retry),
            wait=pause,
            sleep=anyio.sleep,
            reraise=True,
        )
        return await retrying(again)

"""Retries and their budget."""

from __future__ import annotations

from statistics import fmean

import anyio
import pytest

from ragcore.resilience import RetryBudget, RetryPolicy

pytestmark = pytest.mark.anyio


def test_a_budget_is_a_share_of_the_calls_with_a_bounded_reserve() -> None:
    budget = RetryBudget(ratio=0.5, reserve=2)
    assert budget.balance == 2
    budget.deposit()
    assert budget.balance == 2
    assert budget.withdraw()
    assert budget.withdraw()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.balance == 0.5
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()
    assert budget.snapshot().to_dict() == {"balance": 0.0, "reserve": 2, "ratio": 0.5, "spent": 3, "refused": 2}


def test_a_deposit_never_overflows_the_reserve() -> None:
    budget = RetryBudget(ratio=0.7, reserve=1)
    assert budget.withdraw()
    for _ in range(5):
        budget.deposit()
    assert budget.balance == 1


def test_a_budget_of_zero_allows_no_retry() -> None:
    budget = RetryBudget(ratio=0, reserve=0)
    budget.deposit()
    assert not budget.withdraw()
    for bad in ({"ratio": -0.1}, {"reserve": -1}):
        with pytest.raises(ValueError, match="at least 0"):
            RetryBudget(**bad)


def test_the_wait_is_drawn_from_the_whole_interval_which_doubles_up_to_the_cap() -> None:
    policy = RetryPolicy(attempts=9, backoff=1, max_backoff=4)
    for retry, most in ((1, 1), (2, 2), (3, 4), (4, 4), (2_000, 4)):
        waits = [policy.wait_before(retry, None) for _ in range(400)]
        assert 0 <= min(waits) < 0.1 * most
        assert 0.9 * most < max(waits) <= most
        assert 0.4 * most < fmean(waits) < 0.6 * most


def test_a_retry_waits_at_least_as_long_as_the_server_asked_plus_jitter() -> None:
    waits = [RetryPolicy(backoff=0.1, max_backoff=0.1).wait_before(1, 10) for _ in range(200)]
    assert min(waits) >= 10
    assert 10.9 < max(waits) <= 11
    longer = [RetryPolicy(backoff=100, max_backoff=100).wait_before(1, 1) for _ in range(200)]
    assert max(longer) > 50


def test_the_limits_are_checked() -> None:
    for bad in ({"attempts": 0}, {"backoff": -1}, {"backoff": 2, "max_backoff": 1}):
        with pytest.raises(ValueError):
            RetryPolicy(**bad)  # type: ignore[arg-type]
    assert RetryPolicy(attempts=1, backoff=0, max_backoff=0).attempts == 1


async def test_it_retries_after_the_first_error_and_waits_as_given() -> None:
    asked: list[str] = []
    tried: list[float] = []

    async def attempt() -> str:
        tried.append(anyio.current_time())
        if len(tried) < 3:
            raise OSError(f"attempt {len(tried) + 1}")
        return "done"

    def wait(error: Exception) -> float:
        asked.append(str(error))
        return 10.0 * len(asked)

    began = anyio.current_time()
    result = await RetryPolicy(attempts=9).run(attempt, first=OSError("attempt 1"), wait=wait)
    assert result == "done"
    assert asked == ["attempt 1", "attempt 2", "attempt 3"]
    assert [moment - began for moment in tried] == pytest.approx([10, 30, 60])


async def test_without_a_wait_and_after_the_last_attempt_the_error_is_raised_unchanged() -> None:
    first = OSError("first")

    async def attempt() -> None:
        raise OSError("again")

    with pytest.raises(OSError, match="first") as caught:
        await RetryPolicy(attempts=3).run(attempt, first=first, wait=lambda error: None)
    assert caught.value is first
    calls = 0

    async def counted() -> None:
        nonlocal calls
        calls += 1
        raise OSError(f"retry {calls}")

    with pytest.raises(OSError, match="retry 2"):
        await RetryPolicy(attempts=3).run(counted, first=first, wait=lambda error: 0.0)
    assert calls == 2


async def test_a_cancellation_is_never_retried() -> None:
    calls = 0

    async def attempt() -> None:
        nonlocal calls
        calls += 1
        await anyio.sleep_forever()

    with anyio.move_on_after(5) as scope:
        await RetryPolicy(attempts=9).run(attempt, first=OSError(), wait=lambda error: 0.0)
    assert scope.cancelled_caught
    assert calls == 1

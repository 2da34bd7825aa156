"""The rate limiter: at most its limits in any minute, in the order of arrival, and a pause for all callers."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ragcore.errors import ConfigurationError
from ragcore.events import emit, listening
from ragcore.resilience import Policy, RateLimiter
from ragcore.testing import VirtualLoop

pytestmark = pytest.mark.anyio


@given(
    requests=st.one_of(st.none(), st.integers(1, 100)),
    tokens=st.one_of(st.none(), st.integers(1, 10_000)),
    sizes=st.lists(st.integers(1, 900), min_size=1, max_size=40),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=5),
    pauses=st.lists(st.tuples(st.floats(0, 60), st.floats(0, 130)), max_size=4),
)
@example(requests=1, tokens=3, sizes=[4, 1], gaps=[0.0], pauses=[])
@example(requests=1, tokens=None, sizes=[1, 1, 1], gaps=[0.0], pauses=[])
@example(requests=11, tokens=None, sizes=[1] * 30, gaps=[0.0], pauses=[])
@example(requests=60, tokens=None, sizes=[1] * 40, gaps=[0.0], pauses=[(1.0, 30.0)])
def test_no_minute_has_more_than_the_limits_and_no_pause_is_broken(
    requests: int | None, tokens: int | None, sizes: list[int], gaps: list[float], pauses: list[tuple[float, float]]
) -> None:
    passed: list[tuple[float, int]] = []
    paused: list[tuple[float, float]] = []

    async def main() -> None:
        limiter = RateLimiter(requests_per_minute=requests, tokens_per_minute=tokens)

        async def one(size: int) -> None:
            await limiter.acquire(size)
            passed.append((anyio.current_time(), size))

        async def pause() -> None:
            for after, seconds in pauses:
                await anyio.sleep(after)
                paused.append((anyio.current_time(), anyio.current_time() + min(seconds, 120)))
                limiter.pause(seconds)

        async with anyio.create_task_group() as group:
            group.start_soon(pause)
            for number, size in enumerate(sizes):
                group.start_soon(one, size)
                await anyio.sleep(gaps[number % len(gaps)])

    anyio.run(main, backend_options={"loop_factory": VirtualLoop})
    assert len(passed) == len(sizes)
    for start, _ in passed:
        assert not any(begin < start < end - 1e-6 for begin, end in paused)
        within = [size for at, size in passed if start <= at < start + 59.999]
        assert requests is None or len(within) <= requests
        # A request that is larger than the burst is paid for in the minute before it passes.
        assert tokens is None or sum(within) <= tokens + max(sizes) + 1
        assert tokens is None or max(sizes) > tokens / 10 or sum(within) <= tokens + 1e-6


async def test_requests_pass_in_the_order_of_arrival_and_spread_over_the_minute() -> None:
    limiter = RateLimiter(requests_per_minute=60)
    order: list[int] = []

    async def one(number: int) -> None:
        await limiter.acquire()
        order.append(number)

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(one, number)
            await anyio.lowlevel.checkpoint()
    assert order == sorted(order)
    assert 55 < anyio.current_time() - began <= 61


async def test_without_limits_nothing_waits() -> None:
    limiter = RateLimiter()
    began = anyio.current_time()
    for _ in range(100):
        await limiter.acquire(1_000_000)
    assert anyio.current_time() == began


async def test_a_pause_holds_requests_that_wait_already() -> None:
    limiter = RateLimiter(requests_per_minute=60)
    began = anyio.current_time()

    async def late() -> None:
        await limiter.acquire()
        assert anyio.current_time() - began >= 31

    async with anyio.create_task_group() as group:
        for _ in range(6):
            await limiter.acquire()
        group.start_soon(late)
        await anyio.sleep(1)
        limiter.pause(30)
        limiter.pause(5)  # the earlier end does not replace the later one


async def test_a_pause_has_an_upper_limit() -> None:
    limiter = RateLimiter()
    limiter.pause(100_000)
    assert limiter.remaining_pause() == 120


async def test_it_follows_the_retries_and_pauses_of_a_policy_once() -> None:
    limiter, policy = RateLimiter(requests_per_minute=600), Policy("embedding")
    with limiter.following(policy), limiter.following(policy), limiter.following(None):
        emit("retry.attempt", "another")
        emit("policy.paused", "another", seconds=9.0)
        assert limiter.reserve() == 0
        emit("policy.paused", "embedding", seconds=3.0)
        assert limiter.remaining_pause() == 3
        for _ in range(59):
            emit("retry.attempt", "embedding")
        await anyio.sleep(3)
        for _ in range(60):
            limiter.reserve()
        assert limiter.reserve() > 3  # 27 of the 59 retries were paid for during the pause
    assert not listening()


async def test_a_cancelled_caller_does_not_let_another_one_pass_earlier() -> None:
    limiter = RateLimiter(requests_per_minute=60)
    for _ in range(6):
        await limiter.acquire()
    with anyio.move_on_after(0.1):
        await limiter.acquire()
    began = anyio.current_time()
    await limiter.acquire()
    assert anyio.current_time() - began > 1


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "60"])
@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
async def test_an_invalid_limit_is_refused(name: str, limit: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        RateLimiter(**{name: limit})

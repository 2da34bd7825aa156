"""Held streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from ragcore import events
from ragcore.lifecycle.owner import CLEAN_UP
from ragcore.resilience import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    DeadlineExceeded,
    Policy,
    RetryPolicy,
    deadline,
    from_status,
)
from ragcore.testing import at_rest
from tests.resilience.conftest import Flaky

pytestmark = pytest.mark.anyio

DRIP: list[float | str] = [1.0, "x"] * 100
QUICK = RetryPolicy(attempts=3, backoff=0.0, max_backoff=0.0)


async def stream(*items: float | str | Exception) -> AsyncGenerator[str, None]:
    """Yield each str, wait for as many seconds as each number says, and raise each error."""
    for item in items:
        if isinstance(item, str):
            await anyio.lowlevel.checkpoint()
            yield item
        elif isinstance(item, Exception):
            raise item
        else:
            await anyio.sleep(item)


async def stubborn(*items: str) -> AsyncIterator[str]:
    """Yield these items, then convert a cancellation into an OSError."""
    for item in items:
        yield item
    try:
        await asyncio.sleep(99)
        yield "never"
    except asyncio.CancelledError as error:
        raise OSError("another story") from error


def opening(*items: float | str | Exception) -> Opening:
    return Opening(items)


class Opening:
    def __init__(self, items: tuple[float | str | Exception, ...]) -> None:
        self.items = items
        self.calls = 0

    async def __call__(self) -> AsyncIterator[str]:
        self.calls += 1
        await anyio.lowlevel.checkpoint()
        return stream(*self.items)


async def read(policy: Policy, *items: float | str | Exception) -> list[str]:
    got: list[str] = []
    async with policy.hold() as held:
        async for item in held.items(await held.call(opening(*items))):
            got.append(item)
    return got


def counted(policy: Policy) -> tuple[int, int, int]:
    breaker = policy.snapshot()["breaker"]
    return breaker["success"], breaker["failure"], breaker["neutral"]


async def test_a_hold_keeps_its_place_to_the_end_and_counts_once() -> None:
    policy = Policy(bulkhead=Bulkhead(1, queue=0))
    async with policy.hold() as held:
        assert held.attempts == 0
        async for _ in held.items(await held.call(opening("a", "b", "c"))):
            assert policy.snapshot()["bulkhead"]["inside"] == 1
        assert held.attempts == 1
        assert policy.snapshot()["bulkhead"]["inside"] == 1
    assert counted(policy) == (1, 0, 0)
    at_rest(policy)()


async def test_the_first_item_is_reported_to_the_breaker_at_once() -> None:
    policy = Policy()
    async with policy.hold() as held:
        async for _ in held.items(await held.call(opening("a", "b"))):
            assert counted(policy) == (1, 0, 0)


async def test_a_stream_without_an_opening_takes_its_place_at_its_first_item() -> None:
    policy = Policy(bulkhead=Bulkhead(1, queue=0))
    async with policy.hold() as held:
        at_rest(policy)()
        assert [item async for item in held.items(stream("a"))] == ["a"]
        assert held.attempts == 1
    assert counted(policy) == (1, 0, 0)


async def test_an_empty_stream_is_a_success() -> None:
    policy = Policy()
    assert await read(policy) == []
    assert counted(policy) == (1, 0, 0)


async def test_the_opening_is_retried_and_gives_its_place_back_meanwhile() -> None:
    policy = Policy(bulkhead=Bulkhead(1, queue=0), retry=QUICK)
    flaky = Flaky(OSError(), OSError())
    async with policy.hold() as held:
        assert await held.call(flaky) == "ok"
        assert held.attempts == 3
        assert policy.snapshot()["bulkhead"]["inside"] == 1
    assert counted(policy) == (0, 2, 1)
    at_rest(policy)()
    with pytest.raises(OSError, match="3"):
        async with policy.hold() as held:
            await held.call(Flaky(OSError("1"), OSError("2"), OSError("3")))
    at_rest(policy)()


async def test_a_stream_may_be_reopened_until_its_first_item_was_yielded() -> None:
    policy = Policy(bulkhead=Bulkhead(1, queue=0), retry=QUICK)
    async with policy.hold() as held:
        await held.call(opening("a"))
        async for _ in held.items(await held.call(opening("a", "b"))):
            assert policy.snapshot()["bulkhead"]["inside"] == 1
            with pytest.raises(RuntimeError, match="would be repeated"):
                await held.call(opening("a"))
            break
    at_rest(policy)()


async def test_a_slow_drip_does_not_pass_the_deadline() -> None:
    policy = Policy(idle_timeout=10)
    got: list[str] = []
    began = anyio.current_time()
    with pytest.raises(DeadlineExceeded), deadline(30):
        async with policy.hold() as held:
            async for item in held.items(await held.call(opening(*DRIP))):
                got.append(item)
    assert anyio.current_time() == pytest.approx(began + 30)
    assert 28 <= len(got) <= 30


async def test_without_an_inherited_deadline_the_policys_timeout_ends_a_slow_drip() -> None:
    policy = Policy("llm", timeout=20, idle_timeout=15)
    began = anyio.current_time()
    with pytest.raises(DeadlineExceeded, match="llm: the deadline passed"):
        await read(policy, *(9 * item if isinstance(item, float) else item for item in DRIP))
    assert anyio.current_time() == pytest.approx(began + 20)


async def test_first_and_idle_timeouts_count_against_the_dependency() -> None:
    policy = Policy("llm", first_timeout=7, idle_timeout=3, attempt_timeout=1)
    began = anyio.current_time()
    with pytest.raises(TimeoutError, match="llm sent nothing within 7 s"):
        await read(policy, 100.0, "late")
    assert anyio.current_time() == pytest.approx(began + 7)
    assert counted(policy) == (0, 1, 0)
    with pytest.raises(TimeoutError, match="llm stopped sending for 3 s"):
        await read(policy, "a", 100.0, "b")
    assert anyio.current_time() == pytest.approx(began + 10)
    assert counted(policy) == (1, 2, 0)


async def test_the_idle_timeout_restarts_at_each_item() -> None:
    policy = Policy(idle_timeout=3)
    assert await read(policy, "a", 2.9, "b", 2.9, "c") == ["a", "b", "c"]


async def test_the_readers_own_time_counts_only_toward_the_deadline() -> None:
    policy = Policy(idle_timeout=1)
    got: list[str] = []
    with pytest.raises(DeadlineExceeded), deadline(10):
        async with policy.hold() as held:
            async for item in held.items(await held.call(opening("a", "b", "c", "d"))):
                got.append(item)
                await anyio.sleep(4)
    assert got == ["a", "b", "c"]


async def test_a_stream_that_breaks_after_its_first_item_counts_and_raises_its_error() -> None:
    policy = Policy(breaker=CircuitBreaker(minimum_throughput=2), retry=QUICK)
    with pytest.raises(OSError, match="reset"):
        await read(policy, "a", OSError("reset"))
    assert counted(policy) == (1, 1, 0)
    with pytest.raises(CircuitOpen):
        await read(policy, "a")


async def test_an_error_that_is_not_retryable_is_neutral() -> None:
    policy = Policy()
    with pytest.raises(KeyError):
        await read(policy, KeyError("x"))
    assert counted(policy) == (0, 0, 1)
    with pytest.raises(KeyError):
        await read(policy, "a", KeyError("x"))
    assert counted(policy) == (1, 0, 1)


async def test_impatient_callers_do_not_open_a_healthy_dependencys_breaker() -> None:
    policy = Policy(breaker=CircuitBreaker(minimum_throughput=2))
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with policy.hold() as held:
                await held.call(anyio.sleep_forever, timeout=0.5)
    assert counted(policy) == (0, 0, 5)


async def test_an_opening_has_its_own_time_with_all_its_attempts() -> None:
    policy = Policy(attempt_timeout=4, retry=RetryPolicy(attempts=5, backoff=0, max_backoff=0))
    began = anyio.current_time()
    with pytest.raises(TimeoutError):
        async with policy.hold() as held:
            await held.call(anyio.sleep_forever, timeout=10)
    assert anyio.current_time() == pytest.approx(began + 10)
    assert held.attempts == 3
    assert counted(policy) == (0, 3, 0)


async def test_the_time_limit_of_the_opening_does_not_apply_to_items() -> None:
    policy = Policy(first_timeout=50)
    async with policy.hold() as held:
        source = await held.call(opening(20.0, "a"), timeout=10)
        assert [item async for item in held.items(source)] == ["a"]


async def test_a_source_is_closed_on_every_path_within_the_time_limit() -> None:
    closed: list[str] = []

    async def source(name: str, closing: float) -> AsyncGenerator[str, None]:
        try:
            yield "a"
            yield "b"
            if name == "breaks":
                raise OSError
            await anyio.sleep_forever()
        finally:
            closed.append(name)
            await anyio.sleep(closing)

    policy = Policy()
    async with policy.hold() as held:
        async for _ in held.items(source("left", 0.1)):
            break
    with pytest.raises(OSError):
        async with policy.hold() as held:
            async for _ in held.items(source("breaks", 0)):
                pass
    began = anyio.current_time()
    with anyio.move_on_after(5) as scope:
        async with policy.hold() as held:
            async for _ in held.items(source("cancelled", 60)):
                pass
    assert scope.cancelled_caught
    async with policy.hold() as held:
        async for _ in held.items(source("slow to close", 60)):
            break
    assert anyio.current_time() <= began + 5 + 2 * CLEAN_UP + 0.001
    assert closed == ["left", "breaks", "cancelled", "slow to close"]
    at_rest(policy)()


async def test_a_stream_may_be_opened_in_one_task_and_read_in_another() -> None:
    policy = Policy(bulkhead=Bulkhead(1))
    got: list[str] = []
    async with policy.hold() as held:
        items = held.items(await held.call(opening("a", 1.0, "b")))

        async def one() -> None:
            got.append(await anext(items))

        for _ in range(2):
            async with anyio.create_task_group() as group:
                group.start_soon(one)
    assert got == ["a", "b"]
    at_rest(policy)()


async def test_a_hold_must_be_entered_before_use() -> None:
    held = Policy().hold()
    with pytest.raises(RuntimeError, match="async with"):
        await held.call(Flaky())  # type: ignore[attr-defined]
    assert held.attempts == 0  # type: ignore[attr-defined]


async def test_a_key_has_its_own_breaker_and_on_comes_from_the_component() -> None:
    policy = Policy(breaker=CircuitBreaker(minimum_throughput=1), retry=False)
    with pytest.raises(KeyError):
        async with policy.hold(key="a", on=KeyError) as held:
            await held.call(Flaky(KeyError()))
    with pytest.raises(CircuitOpen):
        async with policy.hold(key="a") as held:
            await held.call(Flaky())
    async with policy.hold(key="b") as held:
        assert await held.call(Flaky()) == "ok"


async def test_a_stream_is_not_reopened_after_an_inner_policys_retries() -> None:
    inner, outer = Policy(retry=QUICK), Policy(retry=QUICK)
    flaky = Flaky(*(OSError() for _ in range(9)))
    with pytest.raises(OSError):
        async with outer.hold() as held:
            await held.call(lambda: inner.call(flaky))
    assert flaky.calls == 3


async def test_the_service_time_is_learned_only_from_successful_streams() -> None:
    policy = Policy(bulkhead=Bulkhead(1))
    await read(policy, "a", 3.0, "b")
    assert policy.snapshot()["bulkhead"]["service_time"] == pytest.approx(3)
    with pytest.raises(KeyError):
        await read(policy, 8.0, KeyError())
    async with policy.hold() as held:
        await held.call(opening("a"))
        await anyio.sleep(50)
    assert policy.snapshot()["bulkhead"]["service_time"] == pytest.approx(3)


async def test_a_source_without_a_close_method_is_accepted() -> None:
    class Plain:
        def __init__(self) -> None:
            self.items = ["a", "b"]

        def __aiter__(self) -> Plain:
            return self

        async def __anext__(self) -> str:
            await anyio.lowlevel.checkpoint()
            if not self.items:
                raise StopAsyncIteration
            return self.items.pop(0)

    async with Policy().hold() as held:
        assert [item async for item in held.items(Plain())] == ["a", "b"]


async def test_a_streams_timeout_is_not_marked_as_shortened() -> None:
    policy = Policy("llm", first_timeout=7)
    with pytest.raises(TimeoutError) as caught:
        await read(policy, 100.0)
    assert caught.value.shortened is False  # type: ignore[attr-defined]


async def test_reopening_does_not_make_more_attempts_than_allowed() -> None:
    policy = Policy(retry=QUICK)
    flaky = Flaky(*(OSError(str(n)) for n in range(9)))
    async with policy.hold() as held:
        await held.call(opening("a"))
        with pytest.raises(OSError, match="1"):
            await held.call(flaky)
        assert held.attempts == 3


async def test_a_refused_call_is_not_an_attempt() -> None:
    policy = Policy()
    breaker = policy.breaker()
    assert breaker is not None
    breaker.isolate()
    with pytest.raises(CircuitOpen):
        async with policy.hold() as held:
            await held.call(opening("a"))
    assert held.attempts == 0


async def test_a_close_that_hangs_does_not_delay_the_error() -> None:
    class Stuck:
        def __aiter__(self) -> Stuck:
            return self

        async def __anext__(self) -> str:
            await anyio.sleep_forever()
            raise AssertionError

        async def aclose(self) -> None:
            await anyio.sleep(1_000)

    policy = Policy(first_timeout=1)
    began = anyio.current_time()
    with pytest.raises(TimeoutError):
        async with policy.hold() as held:
            async for _ in held.items(Stuck()):
                pass
    assert anyio.current_time() <= began + 1 + 2 * CLEAN_UP
    at_rest(policy)()


async def test_the_attempts_event_has_the_outcome_of_the_stream() -> None:
    heard: list[str] = []
    stop = events.subscribe(
        lambda event: heard.append(event.data["outcome"]) if event.name == "policy.attempt" else None
    )
    policy = Policy(retry=False)
    await read(policy, "a")
    for broken in (("a", OSError()), (OSError(),), (KeyError(),)):
        with pytest.raises((OSError, KeyError)):
            await read(policy, *broken)
    stop()
    assert heard == ["success", "failure", "failure", "neutral"]


async def test_a_task_cancel_while_reading_is_not_replaced_by_an_error(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")

    policy = Policy()

    async def reading() -> None:
        async with policy.hold() as held:
            async for _ in held.items(stubborn()):
                pass

    task = asyncio.ensure_future(reading())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counted(policy) == (0, 0, 1)
    at_rest(policy)()


async def test_a_source_that_fails_to_close_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def source() -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            raise ValueError("stuck")

    async with Policy().hold() as held:
        async for _ in held.items(source()):
            break
    assert "closing a async_generator failed" in caplog.text


async def test_two_tasks_can_not_wait_for_the_place_of_one_hold() -> None:
    policy = Policy(bulkhead=Bulkhead(1))
    bulkhead = policy.bulkhead
    assert bulkhead is not None
    await bulkhead.acquire()
    async with policy.hold() as held, anyio.create_task_group() as group:
        group.start_soon(held.call, opening("a"))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="use a hold in one task at a time"):
            await held.call(opening("a"))
        bulkhead.release()
    at_rest(policy)()


async def test_items_after_a_failed_opening_take_a_new_place() -> None:
    policy = Policy(bulkhead=Bulkhead(1), retry=False)
    async with policy.hold() as held:
        with pytest.raises(TimeoutError):
            await held.call(anyio.sleep_forever, timeout=1)
        async for _ in held.items(stream("a", "b")):
            assert policy.snapshot()["bulkhead"]["inside"] == 1
        assert held.attempts == 2
    at_rest(policy)()


async def test_each_opening_has_its_own_time_limit() -> None:
    policy = Policy(retry=False)
    async with policy.hold() as held:
        with pytest.raises(TimeoutError):
            await held.call(anyio.sleep_forever, timeout=1)
        assert await held.call(Flaky(seconds=3)) == "ok"


async def test_a_source_that_was_never_read_is_closed() -> None:
    closed: list[str] = []

    class Source:
        def __init__(self, name: str) -> None:
            self.name = name

        def __aiter__(self) -> Source:
            return self

        async def __anext__(self) -> str:
            raise StopAsyncIteration

        async def aclose(self) -> None:
            closed.append(self.name)

    policy = Policy()
    async with policy.hold() as held:
        held.items(Source("never read"))
    breaker = policy.breaker()
    assert breaker is not None
    breaker.isolate()
    with pytest.raises(CircuitOpen):
        async with policy.hold() as held:
            async for _ in held.items(Source("refused")):
                pass
    breaker.reset()
    async with policy.hold() as held:
        async for _ in held.items(Source("read")):
            pass
    assert closed == ["never read", "refused", "read"]


async def test_a_hold_gives_its_place_back_even_if_the_close_of_its_source_is_cancelled(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")
    closing = anyio.Event()

    async def slow_to_close() -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            closing.set()
            await anyio.sleep(99)

    policy = Policy(bulkhead=Bulkhead(1))

    async def reading() -> None:
        async with policy.hold() as held:
            async for _ in held.items(slow_to_close()):
                break

    task = asyncio.ensure_future(reading())
    await closing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    at_rest(policy)()


async def test_a_cancellation_of_the_reading_task_is_raised_although_another_task_opened_the_stream(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")

    policy = Policy()
    async with policy.hold() as held:
        items = held.items(stubborn("a"))
        assert await anext(items) == "a"

        async def read_on() -> None:
            await anext(items)

        task = asyncio.ensure_future(read_on())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    at_rest(policy)()


async def test_a_pause_longer_than_the_openings_timeout_refuses_the_call_at_once() -> None:
    policy = Policy(on=lambda error: from_status(429, {"retry-after": "8"}), timeout=60, retry=False)
    async with policy.hold() as held:
        with pytest.raises(OSError):
            await held.call(Flaky(OSError()))
    began = anyio.current_time()
    async with policy.hold() as held:
        with pytest.raises(CircuitOpen, match=r"that lasts another 8\.0 s, longer than this call can wait"):
            await held.call(opening("a"), timeout=3)
        assert anyio.current_time() == began
        await held.call(opening("a"), timeout=9)
    assert anyio.current_time() == pytest.approx(began + 8)

"""Cancels every primitive at each of its awaits, in each way in which a task can be cancelled. Afterwards all resources must be given back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import anyio
import anyio.lowlevel
import pytest

from ragcore import Document
from ragcore.lifecycle.bound import inherit
from ragcore.lifecycle.owner import Owner
from ragcore.lifecycle.part import Part, Parts
from ragcore.resilience import (
    Bulkhead,
    CircuitBreaker,
    Policy,
    RetryBudget,
    RetryPolicy,
    SingleFlight,
    deadline,
    from_status,
)
from ragcore.resilience.deadline import reserve
from ragcore.resilience.threads import Threads
from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, FakeStore, Slow, at_rest, cancel_everywhere, fake_rag
from tests.resilience.conftest import Flaky

pytestmark = pytest.mark.anyio

PLENTY = RetryBudget(ratio=9, reserve=9_999)


async def stream() -> AsyncGenerator[str, None]:
    for word in ("a", "b", "c"):
        await anyio.sleep(0.5)
        yield word


async def test_a_deadline_cancelled_at_any_await_is_reset() -> None:
    async def run() -> None:
        with deadline(10), deadline(5), reserve(1, share=0.5), inherit(anyio.current_time() + 1):
            for _ in range(3):
                await anyio.sleep(0.1)

    assert await cancel_everywhere(run) == 3


async def test_a_breaker_cancelled_at_any_await_is_at_rest() -> None:
    breaker = CircuitBreaker(minimum_throughput=1, probes=1, break_duration=1, max_break_duration=1)

    async def run() -> None:
        breaker.reset()
        with pytest.raises(OSError):
            await breaker.call(Flaky(OSError(), seconds=0.1))
        await anyio.sleep(2)
        await breaker.call(Flaky(seconds=0.1))

    assert await cancel_everywhere(run, check=at_rest(breaker)) == 3


async def test_a_bulkhead_with_other_callers_cancelled_at_any_await_is_at_rest() -> None:
    bulkhead = Bulkhead(1, queue=5)

    async def hold(seconds: float) -> None:
        async with bulkhead:
            await anyio.sleep(seconds)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(hold, 1)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            group.start_soon(hold, 1)
            async with bulkhead:
                await anyio.sleep(0.1)

    assert await cancel_everywhere(run, check=at_rest(bulkhead)) >= 5


async def test_a_single_flight_cancelled_at_any_await_is_at_rest() -> None:
    async with SingleFlight() as flights:

        async def work() -> str:
            await anyio.sleep(1)
            return "done"

        async def together() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(flights.call, "k", work)
                await flights.call("k", work)

        async def failing() -> None:
            with pytest.raises(OSError):
                await flights.call("k", Flaky(OSError(), seconds=1))

        for run in (lambda: flights.call("k", work), together, failing):
            assert await cancel_everywhere(run, check=at_rest(flights)) >= 1


async def test_a_retry_may_be_cancelled_at_any_await() -> None:
    async def run() -> None:
        flaky = Flaky(OSError(), OSError(), seconds=0.1)
        await RetryPolicy(attempts=9).run(flaky, first=OSError(), wait=lambda error: 0.5)

    assert await cancel_everywhere(run) >= 5


async def test_an_owner_cancelled_at_any_await_leaves_no_task() -> None:
    owner = Owner("test")
    await owner.start()
    cleaned: list[bool] = []

    async def clean() -> None:
        await anyio.sleep(0.1)
        cleaned.append(True)

    async def run() -> None:
        await owner.clean_up(clean, name="cleaning")
        await anyio.lowlevel.checkpoint()

    async def whole() -> None:
        other = Owner("other")
        await other.start()
        try:
            other.spawn(anyio.sleep_forever, name="work")
            await anyio.sleep(0.1)
        finally:
            with anyio.CancelScope(shield=True):
                await other.stop()

    points = await cancel_everywhere(run, check=lambda: owner.running == 0)
    assert points >= 2
    assert len(cleaned) > points  # cancelled or not, the work was done
    assert await cancel_everywhere(whole) >= 3
    await owner.stop()


async def test_a_start_or_a_close_cancelled_at_any_await_leaves_nothing_open() -> None:
    class Slow(Part):
        async def _open(self) -> None:
            await anyio.sleep(0.1)

        async def _close(self) -> None:
            await anyio.sleep(0.1)

    part, inner = Slow(), Slow()
    parts = Parts()

    async def run() -> None:
        async with part:
            try:
                await parts.start(inner)
            finally:
                with anyio.CancelScope(shield=True):
                    await parts.aclose()

    def closed() -> None:
        assert not part.is_open
        assert part._owner is None
        assert not inner.is_open

    assert await cancel_everywhere(run, check=closed) >= 5


@pytest.mark.blocking_allowed
async def test_a_wait_for_a_thread_may_be_cancelled_at_any_await() -> None:
    threads = Threads(2, name="test", queue=4)

    async def run() -> None:
        await threads.run(lambda: None)
        await anyio.lowlevel.checkpoint()

    assert await cancel_everywhere(run) >= 2
    for _ in range(2):  # threads that were left behind have given their places back, or do so now
        await threads.run(lambda: None)
    assert threads.places.inside == 0


CALLS = {
    "goes well": lambda: Flaky(seconds=0.5),
    "the third attempt succeeds": lambda: Flaky(OSError(), OSError(), seconds=0.5),
    "fails": lambda: Flaky(*(OSError() for _ in range(9)), seconds=0.5),
    "times out": lambda: Flaky(seconds=99),
}


@pytest.mark.parametrize("case", CALLS)
async def test_a_call_cancelled_at_any_await_gives_its_place_back(case: str) -> None:
    async def run() -> None:
        key = "model" if case == "fails" else None
        policy.breaker(key).reset()  # type: ignore[union-attr]
        try:
            with deadline(4):
                await policy.call(CALLS[case](), key=key)
        except OSError:
            pass

    policy = Policy(bulkhead=Bulkhead(1), attempt_timeout=2, retry=RetryPolicy(attempts=3, backoff=0.1, budget=PLENTY))
    assert await cancel_everywhere(run, check=at_rest(policy)) >= 1


async def test_a_call_cancelled_in_the_queue_in_a_pause_or_as_a_probe_leaves_nothing() -> None:
    breaker = CircuitBreaker(minimum_throughput=1, probes=1, break_duration=1, max_break_duration=1)
    policy = Policy(
        bulkhead=Bulkhead(1, queue=9),
        breaker=breaker,
        retry=RetryPolicy(attempts=2, backoff=0, max_backoff=0, budget=PLENTY),
        on=lambda error: from_status(429 if isinstance(error, KeyError) else 503, {"retry-after": "1"}),
    )

    async def queued() -> None:
        breaker.reset()
        async with anyio.create_task_group() as group:
            group.start_soon(policy.call, Flaky(seconds=1))
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            group.start_soon(policy.call, Flaky(seconds=1))
            await policy.call(Flaky(seconds=1))

    async def paused() -> None:
        breaker.reset()
        await policy.call(Flaky(KeyError(), seconds=0.5))

    async def probing() -> None:
        breaker.reset()
        with pytest.raises(OSError):
            await breaker.call(Flaky(OSError()))
        await anyio.sleep(2)
        await policy.call(Flaky(seconds=0.5))
        assert breaker.state == "closed"

    for run in (queued, paused, probing):
        assert await cancel_everywhere(run, check=at_rest(policy)) >= 3


async def test_a_held_stream_cancelled_at_any_await_gives_its_place_back() -> None:
    policy = Policy(bulkhead=Bulkhead(1), retry=RetryPolicy(attempts=2, backoff=0.1, budget=PLENTY))
    closed: list[str] = []

    async def source() -> AsyncIterator[str]:
        try:
            async with aclosing(stream()) as words:
                async for word in words:
                    yield word
        finally:
            await anyio.sleep(0.1)
            closed.append("closed")

    async def run() -> None:
        policy.breaker().reset()  # type: ignore[union-attr]
        async with policy.hold() as held:
            await held.call(Flaky(OSError(), seconds=0.5))
            async for _ in held.items(source()):
                await anyio.lowlevel.checkpoint()

    assert await cancel_everywhere(run, check=at_rest(policy)) >= 8
    assert closed


async def test_a_question_cancelled_at_any_await_leaves_every_part_at_rest() -> None:
    embedder, store, generator = FakeEmbedder(), FakeStore(), FakeGenerator()
    async with fake_rag(embedder=embedder, store=store, generator=generator) as rag:
        await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        at_rest_too = at_rest(embedder.policy, store.policy, generator.policy)

        def check() -> None:
            assert rag.inflight() == ()
            at_rest_too()

        async def ask() -> None:
            generator.faults.next(Slow(0.5))
            await rag.ask("What is my deductible?", tenant="m")

        async def degraded() -> None:
            embedder.faults.next(Fail(500))
            generator.faults.next(Fail(500))
            await rag.ask("What is my deductible?", tenant="m")
            embedder.faults.next()

        async def whole_stream() -> None:
            async with rag.stream("What is my deductible?", tenant="m") as events:
                await events.answer()

        async def left_stream() -> None:
            async with rag.stream("What is my deductible?", tenant="m") as events:
                async for _ in events:
                    break

        for run in (ask, degraded, whole_stream, left_stream):
            for policy in (embedder.policy, store.policy, generator.policy):
                policy.breaker().reset()  # type: ignore[union-attr]
            assert await cancel_everywhere(run, check=check) >= 2
        for part in (embedder, generator):
            part.faults.always(None)
        assert (await rag.ask("What is my deductible?", tenant="m")).found

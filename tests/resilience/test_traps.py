"""Mistakes that other libraries make. Each has one test, whose name describes the right behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from ragcore import Document, EmbeddingError, events
from ragcore.resilience import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    DeadlineExceeded,
    Failure,
    Overloaded,
    Policy,
    RetryPolicy,
    SingleFlight,
    deadline,
)
from ragcore.testing import Fail, FakeEmbedder, FakeStore, at_rest, fake_rag
from tests.resilience.conftest import Flaky

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(attempts=3, backoff=0.0, max_backoff=0.0)


async def half_open(*, probes: int = 1, bulkhead: Bulkhead | None = None) -> Policy:
    """Return a policy whose breaker has opened and whose break is over."""
    breaker = CircuitBreaker(minimum_throughput=2, probes=probes)
    policy = Policy("crm", breaker=breaker, retry=False, bulkhead=bulkhead)
    for _ in range(2):
        with pytest.raises(OSError):
            await policy.call(Flaky(OSError()))
    assert breaker.state == "open"
    await anyio.sleep(10)
    return policy


def state(policy: Policy) -> str:
    return str(policy.snapshot()["breaker"]["state"])


async def test_a_cancelled_probe_gives_its_slot_back() -> None:
    policy = await half_open()
    for _ in range(3):
        with anyio.move_on_after(1) as scope:
            await policy.call(anyio.sleep_forever)
        assert scope.cancelled_caught
        assert state(policy) == "half_open"
    await policy.call(Flaky())
    assert state(policy) == "closed"


async def test_a_probe_that_never_ends_counts_as_failed() -> None:
    policy = await half_open()
    breaker = policy.breaker()
    assert breaker is not None
    lost = breaker.acquire()
    await anyio.sleep(59)
    with pytest.raises(CircuitOpen, match="all its probes are under way"):
        await policy.call(Flaky())
    await anyio.sleep(1)
    with pytest.raises(CircuitOpen, match="is open after failures"):
        await policy.call(Flaky())
    lost.success()
    await anyio.sleep(13)
    assert await policy.call(Flaky()) == "ok"
    assert state(policy) == "closed"


async def test_a_call_without_a_place_takes_no_probe_slot() -> None:
    policy = await half_open(bulkhead=Bulkhead(1, queue=0))
    bulkhead = policy.bulkhead
    assert bulkhead is not None
    await bulkhead.acquire()
    for _ in range(3):
        with pytest.raises(Overloaded):
            await policy.call(Flaky())
    assert policy.snapshot()["breaker"]["probes_out"] == 0
    bulkhead.release()
    assert await policy.call(Flaky()) == "ok"
    assert state(policy) == "closed"


async def test_a_cancellation_is_not_counted_as_a_failure() -> None:
    policy = Policy(breaker=CircuitBreaker(minimum_throughput=1), retry=False)
    for _ in range(5):
        with anyio.move_on_after(1):
            await policy.call(anyio.sleep_forever)
    assert state(policy) == "closed"
    assert policy.snapshot()["breaker"]["neutral"] == 5


async def test_a_policy_limits_concurrent_probes() -> None:
    policy = await half_open(probes=2)
    most = inside = refused = 0

    async def probe() -> None:
        nonlocal most, inside
        inside += 1
        most = max(most, inside)
        try:
            await anyio.sleep(1)
        finally:
            inside -= 1

    async def one() -> None:
        nonlocal refused
        try:
            await policy.call(probe)
        except CircuitOpen:
            refused += 1

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(one)
    assert (most, refused) == (2, 48)
    assert state(policy) == "closed"


async def test_queued_callers_do_not_all_probe_at_once() -> None:
    policy = await half_open(probes=1, bulkhead=Bulkhead(1, queue=100))
    bulkhead = policy.bulkhead
    assert bulkhead is not None
    await bulkhead.acquire()
    asked = 0
    refused = 0

    async def fail() -> None:
        nonlocal asked
        asked += 1
        raise OSError

    async def one() -> None:
        nonlocal refused
        try:
            await policy.call(fail)
        except (OSError, CircuitOpen) as error:
            refused += isinstance(error, CircuitOpen)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        assert bulkhead.waiting == 20
        bulkhead.release()
    assert (asked, refused) == (1, 19)
    at_rest(policy)()


async def test_callers_do_not_queue_behind_an_open_breaker() -> None:
    policy = Policy(
        bulkhead=Bulkhead(2, queue=100), breaker=CircuitBreaker(minimum_throughput=1), retry=False, attempt_timeout=100
    )
    refused: list[float] = []

    async def one() -> None:
        try:
            await policy.call(Flaky(seconds=20))
        except CircuitOpen:
            refused.append(anyio.current_time())

    async def failing() -> None:
        with pytest.raises(OSError):
            await policy.call(Flaky(OSError(), seconds=1))

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(failing)
        await anyio.wait_all_tasks_blocked()
        for _ in range(5):
            group.start_soon(one)
    assert refused == [pytest.approx(began + 1)] * 5
    at_rest(policy)()


async def test_a_queued_caller_continues_to_wait_if_its_breaker_closes_at_once() -> None:
    policy = Policy(bulkhead=Bulkhead(1))
    breaker = policy.breaker()
    assert breaker is not None
    async with anyio.create_task_group() as group:
        group.start_soon(policy.call, Flaky(seconds=5))
        await anyio.wait_all_tasks_blocked()
        group.start_soon(policy.call, Flaky())
        await anyio.wait_all_tasks_blocked()
        breaker.isolate()
        breaker.reset()
        await anyio.sleep(1)
        assert policy.snapshot()["bulkhead"]["waiting"] == 1
    assert breaker.snapshot()["success"] == 1  # the other call belonged to an earlier generation


async def test_the_breaker_opens_when_half_of_the_calls_fail_even_if_never_two_in_a_row() -> None:
    policy = Policy(breaker=CircuitBreaker(minimum_throughput=10), retry=False)
    for number in range(10):
        with suppress(OSError):
            await policy.call(Flaky(*([OSError()] * (number % 2))))
    assert state(policy) == "open"


async def test_an_answer_raises_no_exception_group() -> None:
    async with SingleFlight() as flights:
        with pytest.raises(OSError, match="flight"):
            await flights.call("k", Flaky(OSError("flight")))
    policy = Policy(retry=QUICK)
    with pytest.raises(OSError, match="call"):
        await policy.call(Flaky(*(OSError("call") for _ in range(3))))
    embedder = FakeEmbedder()
    async with fake_rag(embedder=embedder) as rag:
        await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        embedder.faults.always(Fail(500))
        with pytest.raises(EmbeddingError):
            await rag.ask("What is my deductible?", tenant="m", degrade=False)


async def test_a_users_own_exception_group_is_raised_unchanged() -> None:
    async def grouped() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(Flaky(OSError("one")))

    with pytest.raises(ExceptionGroup) as caught:
        await Policy().call(grouped)
    assert len(caught.value.exceptions) == 1


async def test_a_retry_does_not_sleep_past_the_deadline() -> None:
    heard: list[str] = []
    policy = Policy(retry=RetryPolicy(attempts=5, backoff=1000, max_backoff=1000))
    stop = events.subscribe(lambda event: heard.append(event.name))
    began = anyio.current_time()
    with pytest.raises(OSError, match="the error itself"), deadline(1):
        await policy.call(Flaky(*(OSError("the error itself") for _ in range(9))))
    stop()
    assert anyio.current_time() < began + 1
    assert "retry.no_time" in heard


async def test_no_permit_is_held_while_a_retry_sleeps() -> None:
    policy = Policy(bulkhead=Bulkhead(1, queue=0), retry=RetryPolicy(attempts=2, backoff=100, max_backoff=100))
    async with anyio.create_task_group() as group:
        with deadline(1_000):
            group.start_soon(policy.call, Flaky(OSError()))
            await anyio.wait_all_tasks_blocked()
        assert policy.snapshot()["retries"] == 1
        at_rest(policy)()
        assert await policy.call(Flaky()) == "ok"
        group.cancel_scope.cancel()


async def test_nested_retries_do_not_multiply() -> None:
    inner, outer = Policy("inner", retry=QUICK), Policy("outer", retry=QUICK)
    flaky = Flaky(*(OSError(str(n)) for n in range(99)))
    with pytest.raises(OSError, match="2"):
        await outer.call(lambda: inner.call(flaky))
    assert flaky.calls == 3

    async def translated() -> None:
        try:
            await inner.call(flaky)
        except OSError as error:
            raise OSError("mine") from error

    with pytest.raises(OSError, match="mine"), deadline(9):
        await outer.call(translated)
    assert flaky.calls == 6
    middle = Policy("middle", retry=False)

    async def through_a_deadline() -> None:
        with deadline(5):
            await middle.call(lambda: inner.call(flaky))

    with pytest.raises(OSError):
        await outer.call(through_a_deadline)
    assert flaky.calls == 9


async def test_an_error_that_no_inner_policy_retried_is_retried() -> None:
    once = RetryPolicy(attempts=1)
    outer = Policy(retry=QUICK, on=(OSError, KeyError))
    for inner in (Policy(retry=False), Policy(retry=once)):
        assert await outer.call(partial(inner.call, Flaky(OSError(), OSError()))) == "ok"
        assert await outer.call(partial(Policy(retry=QUICK).call, Flaky(KeyError()))) == "ok"


async def test_ragcores_own_errors_are_not_retried() -> None:
    opened = CircuitBreaker()
    opened.isolate()
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        opened.acquire()

    with pytest.raises(CircuitOpen):
        await Policy(on=lambda error: Failure(), retry=QUICK).call(call)
    assert calls == 1


async def test_followers_survive_their_leaders_cancellation() -> None:
    results: list[str] = []
    async with SingleFlight() as flights, anyio.create_task_group() as group:
        leader = anyio.CancelScope()

        async def lead() -> None:
            with leader:
                await flights.call("k", Flaky(seconds=10))

        async def follow() -> None:
            results.append(await flights.call("k", Flaky(seconds=10)))

        group.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        leader.cancel()
    assert results == ["ok"]


async def test_a_flight_is_not_bound_by_its_leaders_deadline() -> None:
    results: list[str] = []
    async with SingleFlight() as flights, anyio.create_task_group() as group:

        async def lead() -> None:
            with pytest.raises(DeadlineExceeded), deadline(1):
                await flights.call("k", lambda: Policy().call(Flaky(seconds=5)))

        async def follow() -> None:
            with deadline(9):
                results.append(await flights.call("k", Flaky()))

        group.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(follow)
    assert results == ["ok"]


async def test_the_deadline_ends_a_slow_drip_within_the_idle_timeout() -> None:
    async def drip() -> AsyncIterator[str]:
        while True:
            await anyio.sleep(1)
            yield "x"

    began = anyio.current_time()
    with pytest.raises(DeadlineExceeded), deadline(20):
        async with Policy(idle_timeout=2).hold() as held:
            async for _ in held.items(drip()):
                pass
    assert anyio.current_time() == pytest.approx(began + 20)


async def test_a_cancelled_waiter_gives_its_queue_place_back() -> None:
    policy = Policy(bulkhead=Bulkhead(1, queue=2))
    async with anyio.create_task_group() as group:
        group.start_soon(policy.call, Flaky(seconds=9))
        await anyio.wait_all_tasks_blocked()
        for _ in range(5):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(policy.call, Flaky())
                await anyio.sleep(1)
                waiting.cancel_scope.cancel()
            assert policy.snapshot()["bulkhead"]["waiting"] == 0
    at_rest(policy)()


async def test_an_error_during_a_cancellation_does_not_replace_it() -> None:
    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            raise OSError("the driver's own error for a cancellation") from error

    policy = Policy(retry=QUICK)
    with anyio.move_on_after(1) as scope:
        await policy.call(stubborn)
    assert scope.cancelled_caught
    assert policy.snapshot()["retries"] == 0


async def test_a_task_cancel_is_not_replaced_by_an_error(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")
    policy = Policy(retry=QUICK)

    async def stubborn() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError as error:
            raise OSError("swallowed") from error

    for attempts in (1, 3):  # in the first attempt, and in a retry
        flaky = Flaky(*(OSError() for _ in range(attempts - 1)))

        async def call(flaky: Flaky = flaky) -> None:
            await flaky()
            await stubborn()

        task = asyncio.ensure_future(policy.call(call))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert policy.snapshot()["breaker"]["neutral"] == 2


async def test_every_reported_breaker_counts_calls() -> None:
    embedder, store = FakeEmbedder(policy=Policy("e", retry=False)), FakeStore(policy=Policy("s", retry=False))
    async with fake_rag(embedder=embedder, store=store) as rag:
        await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        before = rag.stats().policies
        await rag.ask("What is my deductible?", tenant="m")
        after = rag.stats().policies
    for name in after:
        assert after[name]["breaker"]["success"] > before[name]["breaker"]["success"], name
    assert len(after) == 3


async def test_a_failing_dependency_changes_the_report() -> None:
    embedder = FakeEmbedder(policy=Policy("e", retry=False, breaker=CircuitBreaker(minimum_throughput=2)))
    async with fake_rag(embedder=embedder) as rag:
        await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        embedder.faults.always(Fail(500))
        for _ in range(4):
            assert (await rag.ask("What is my deductible?", tenant="m")).degraded
        report = rag.stats().policies["embedding"]["breaker"]
    assert report["state"] == "open"
    assert report["failure"] >= 1
    assert report["rejected"] >= 1


async def test_a_wait_in_the_innermost_queue_stops_the_limits_of_all_enclosing_attempts() -> None:
    outer = Policy("outer", attempt_timeout=1.0, retry=False)
    middle = Policy("middle", attempt_timeout=0.5, retry=False)
    inner = Policy("inner", bulkhead=Bulkhead(1, queue=9), retry=False)
    assert inner.bulkhead is not None
    assert inner.bulkhead.try_acquire("another")

    async def innermost() -> str:
        return await inner.call(Flaky(seconds=0.1))

    async def between() -> str:
        return await middle.call(innermost)

    async with anyio.create_task_group() as group:
        group.start_soon(_free, inner.bulkhead, 3.0)
        with deadline(10):
            assert await outer.call(between) == "ok"
    # After the wait the limits continue with the time that was left before it.
    assert inner.bulkhead.try_acquire("another")

    async def slow() -> str:
        return await inner.call(Flaky(seconds=5.0))

    async with anyio.create_task_group() as group:
        group.start_soon(_free, inner.bulkhead, 3.0)
        began = anyio.current_time()
        with deadline(10), pytest.raises(TimeoutError, match="middle did not answer within 0.5 s"):
            await outer.call(lambda: middle.call(slow))
        assert anyio.current_time() - began == pytest.approx(3.5, abs=0.01)


async def _free(bulkhead: Bulkhead, seconds: float) -> None:
    await anyio.sleep(seconds)
    bulkhead.release(flow="another")

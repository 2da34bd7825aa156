"""Policy, bulkhead, retry, single flight, threads, owner: on both backends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from ragcore import NotOpen, WrongEventLoop, events
from ragcore.resilience import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    Deadline,
    DeadlineExceeded,
    Failure,
    Overloaded,
    Policy,
    RetryBudget,
    RetryPolicy,
    SingleFlight,
    deadline,
    from_status,
)
from ragcore.resilience.owner import Owner
from ragcore.resilience.part import Part, Parts
from ragcore.resilience.threads import Threads

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(attempts=3, backoff=0.0, max_backoff=0.0)


class Flaky:
    """Fails with these errors, one call each, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        await anyio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        return "ok"


async def test_what_may_pass_is_tried_again_and_the_last_error_comes_out_as_itself() -> None:
    policy = Policy("crm", on=OSError, retry=QUICK)
    flaky = Flaky(OSError("1"), OSError("2"))
    assert await policy.call(flaky) == "ok"
    assert flaky.calls == 3
    hopeless = Flaky(*(OSError(str(n)) for n in range(9)))
    with pytest.raises(OSError, match="2"):
        await policy.call(hopeless)
    assert hopeless.calls == 3


async def test_what_is_the_callers_affair_comes_out_at_once_and_does_not_count() -> None:
    breaker = CircuitBreaker(minimum_throughput=1)
    policy = Policy(on=OSError, retry=QUICK, breaker=breaker)
    flaky = Flaky(ValueError("bad"))
    with pytest.raises(ValueError, match="bad"):
        await policy.call(flaky)
    assert (flaky.calls, breaker.state) == (1, "closed")


async def test_an_error_of_our_own_is_never_retried_so_nested_retries_do_not_multiply() -> None:
    inner = Policy("inner", on=OSError, retry=QUICK, breaker=False)
    outer = Policy("outer", on=lambda error: Failure(), retry=QUICK)
    opened = CircuitBreaker()
    opened.isolate()
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        opened.acquire()

    with pytest.raises(CircuitOpen):
        await outer.call(lambda: inner.call(call))
    assert calls == 1


async def test_a_failing_dependency_changes_the_report_and_is_not_asked_any_more() -> None:
    policy = Policy("crm", on=OSError, retry=False, breaker=CircuitBreaker(minimum_throughput=5))
    flaky = Flaky(*(OSError() for _ in range(100)))
    for _ in range(5):
        with pytest.raises(OSError):
            await policy.call(flaky)
    with pytest.raises(CircuitOpen):
        await policy.call(flaky)
    assert flaky.calls == 5
    report = policy.snapshot().to_dict()
    assert report["breaker"]["state"] == "open"
    assert report["breaker"]["failure"] == 5


async def test_an_attempts_own_timeout_counts_and_is_retried() -> None:
    policy = Policy(attempt_timeout=0.01, retry=RetryPolicy(attempts=2, backoff=0, max_backoff=0))
    calls = 0

    async def hang() -> None:
        nonlocal calls
        calls += 1
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError) as caught:
        await policy.call(hang)
    assert not isinstance(caught.value, DeadlineExceeded)
    assert calls == 2
    assert policy.snapshot()["breaker"]["failure"] == 2


async def test_the_callers_deadline_is_its_own_error_and_neutral() -> None:
    policy = Policy(attempt_timeout=5)
    with pytest.raises(DeadlineExceeded), anyio.CancelScope(), deadline(0.02):
        await policy.call(anyio.sleep_forever)
    assert policy.snapshot()["breaker"]["failure"] == 0
    bulkhead = policy.bulkhead
    assert bulkhead is not None
    assert bulkhead.inside == 0


async def test_a_retry_never_sleeps_past_the_deadline() -> None:
    policy = Policy(on=OSError, retry=RetryPolicy(attempts=5, backoff=100, max_backoff=100))
    began = anyio.current_time()
    with pytest.raises(OSError), deadline(1):
        await policy.call(Flaky(*(OSError() for _ in range(9))))
    assert anyio.current_time() - began < 0.9


async def test_no_permit_is_held_while_a_retry_sleeps() -> None:
    policy = Policy(
        on=OSError, bulkhead=Bulkhead(1, queue=0), retry=RetryPolicy(attempts=2, backoff=0.01, max_backoff=0.01)
    )
    bulkhead = policy.bulkhead
    assert bulkhead is not None
    inside: list[int] = []
    stop = events.subscribe(lambda event: inside.append(bulkhead.inside) if event.name == "retry.attempt" else None)
    assert await policy.call(Flaky(OSError())) == "ok"
    stop()
    assert inside == [0]


async def test_an_empty_budget_lets_the_first_error_out() -> None:
    budget = RetryBudget(ratio=0.0, reserve=2)
    policy = Policy(on=OSError, retry=RetryPolicy(attempts=9, backoff=0, max_backoff=0, budget=budget), breaker=False)
    flaky = Flaky(*(OSError(str(n)) for n in range(20)))
    with pytest.raises(OSError):
        await policy.call(flaky)
    assert flaky.calls == 3
    with pytest.raises(OSError):
        await policy.call(flaky)
    assert flaky.calls == 4
    assert budget.snapshot()["refused"] == 2


async def test_a_429_pauses_the_dependency_for_all_and_a_sooner_deadline_is_refused_at_once() -> None:
    policy = Policy("llm", on=lambda error: from_status(429, {"retry-after": "30"}), retry=False)
    with pytest.raises(OSError):
        await policy.call(Flaky(OSError()))
    assert policy.snapshot()["breaker"]["state"] == "closed"
    began = anyio.current_time()
    with pytest.raises(CircuitOpen) as caught:
        with deadline(5):
            await policy.call(Flaky())
    assert anyio.current_time() - began < 1
    assert caught.value.retry_after is not None
    assert 29 <= caught.value.retry_after <= 31
    assert await policy.call(Flaky(), key="another model") == "ok"


async def test_a_pause_has_a_cap_whatever_the_server_says() -> None:
    policy = Policy(on=lambda error: from_status(429, {"retry-after": "86400"}), retry=False)
    with pytest.raises(OSError):
        await policy.call(Flaky(OSError()))
    assert policy.snapshot()["paused_for"] <= 120


@pytest.mark.parametrize("judgement", [lambda error: 1 / 0, lambda error: True, lambda error: "yes"])
async def test_a_judgement_that_is_none_leaks_nothing(judgement: Any, caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy(on=judgement, bulkhead=Bulkhead(1, queue=0))
    for _ in range(3):
        with pytest.raises(OSError):
            await policy.call(Flaky(OSError()))
    assert policy.bulkhead is not None
    assert policy.bulkhead.inside == 0
    assert "on=" in caplog.text


async def test_impatient_callers_do_not_open_a_healthy_dependencys_breaker() -> None:
    policy = Policy(breaker=CircuitBreaker(minimum_throughput=2))
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with policy.hold() as held:
                await held.call(anyio.sleep_forever, timeout=0.005)
    assert policy.snapshot()["breaker"]["failure"] == 0


async def test_two_starts_at_once_return_when_it_is_open() -> None:
    class Slow(Part):
        async def _open(self) -> None:
            await anyio.sleep(0.02)
            self.ready = True

    part = Slow()
    async with anyio.create_task_group() as group:
        group.start_soon(part.start)
        await anyio.lowlevel.checkpoint()
        await part.start()
        assert part.ready
    await part.aclose()


async def test_a_start_that_fails_closes_what_it_opened() -> None:
    inner = Part()

    class Broken(Part):
        parts = Parts()

        async def _open(self) -> None:
            await self.parts.start(inner)
            raise OSError("no")

        async def _close(self) -> None:
            await self.parts.aclose()

    part = Broken()
    with pytest.raises(OSError):
        await part.start()
    assert not inner.is_open
    assert not part.is_open


async def test_a_key_has_a_breaker_of_its_own_and_their_number_is_bounded() -> None:
    policy = Policy("llm", on=OSError, retry=False, breaker=CircuitBreaker(minimum_throughput=1), max_keys=2)
    with pytest.raises(OSError):
        await policy.call(Flaky(OSError()), key="a")
    assert await policy.call(Flaky(), key="b") == "ok"
    with pytest.raises(CircuitOpen, match=r"llm\[a\]"):
        await policy.call(Flaky(), key="a")
    await policy.call(Flaky(), key="c")
    assert set(policy.snapshot()["keys"]) == {"a", "c"}


async def test_an_error_raised_while_being_cancelled_does_not_swallow_the_cancellation() -> None:
    policy = Policy(on=OSError, retry=QUICK)

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            raise OSError("the library's own words for being cancelled") from error

    with anyio.move_on_after(0.01) as scope:
        await policy.call(stubborn)
    assert scope.cancelled_caught


async def test_one_task_cancel_is_not_swallowed_either(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")
    policy = Policy(on=OSError, retry=QUICK)

    async def stubborn() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError as error:
            raise OSError("swallowed") from error

    task = asyncio.ensure_future(policy.call(stubborn))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_attempt_inherits_the_deadline_and_leaves_none_behind() -> None:
    seen: list[float] = []

    async def look() -> None:
        current = Deadline.current()
        assert current is not None
        seen.append(current.remaining())

    await Policy(attempt_timeout=3).call(look)
    assert 2 < seen[0] <= 3
    assert Deadline.current() is None


@pytest.mark.parametrize("limit", [1, 3])
async def test_the_bulkhead_is_first_in_first_out_and_never_holds_more_than_its_limit(limit: int) -> None:
    bulkhead = Bulkhead(limit, queue=10)
    came: list[int] = []
    order: list[int] = []
    most = 0

    async def one(number: int) -> None:
        nonlocal most
        came.append(number)
        await bulkhead.acquire()
        order.append(number)
        most = max(most, bulkhead.inside)
        await anyio.sleep(0.001)
        bulkhead.release()

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(one, number)
            await anyio.lowlevel.checkpoint()
    # Those that are admitted in one moment may wake in any order.
    assert order == came if limit == 1 else sorted(order) == sorted(came)
    assert (most, bulkhead.inside, bulkhead.waiting) == (limit, 0, 0)


async def test_a_full_queue_refuses_at_once() -> None:
    bulkhead = Bulkhead(1, queue=0, name="db")
    async with bulkhead:
        with pytest.raises(Overloaded, match="db is overloaded"):
            await bulkhead.acquire()
    assert bulkhead.inside == 0


async def test_a_wait_past_the_deadline_is_refused_at_once() -> None:
    bulkhead = Bulkhead(1, queue=10)
    await bulkhead.acquire()
    bulkhead.release(service_time=10.0)
    await bulkhead.acquire()
    async with anyio.create_task_group() as group:
        group.start_soon(bulkhead.acquire)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Overloaded):
            await bulkhead.acquire(anyio.current_time() + 1)
        bulkhead.release()
    bulkhead.release()
    assert bulkhead.inside == 0


async def test_a_cancelled_waiter_leaves_its_queue_place() -> None:
    bulkhead = Bulkhead(1, queue=1)
    await bulkhead.acquire()
    for _ in range(3):
        with anyio.move_on_after(0.005):
            await bulkhead.acquire()
    assert bulkhead.waiting == 0
    bulkhead.release()
    assert bulkhead.inside == 0


async def stream(*items: float | str) -> AsyncIterator[str]:
    """Words are items; numbers are seconds to wait."""
    for item in items:
        if isinstance(item, str):
            await anyio.lowlevel.checkpoint()
            yield item
        else:
            await anyio.sleep(item)


async def test_a_held_stream_keeps_its_place_to_the_end() -> None:
    policy = Policy(bulkhead=Bulkhead(1, queue=0))
    assert policy.bulkhead is not None
    async with policy.hold() as held:
        source = await held.call(lambda: _value(stream("a", "b")))
        async for _ in held.items(source):
            assert policy.bulkhead.inside == 1
    assert policy.bulkhead.inside == 0
    assert policy.snapshot()["breaker"]["success"] == 1


async def test_a_slow_drip_does_not_pass_the_deadline() -> None:
    policy = Policy(idle_timeout=1)
    got: list[str] = []
    with pytest.raises(DeadlineExceeded), deadline(0.1):
        async with policy.hold() as held:
            source = await held.call(lambda: _value(stream(*(part for _ in range(100) for part in (0.02, "x")))))
            async for item in held.items(source):
                got.append(item)
    assert 0 < len(got) < 10


async def test_first_and_idle_timeouts_count_against_the_dependency() -> None:
    policy = Policy(first_timeout=0.02, idle_timeout=0.01)
    for parts in ((1.0, "late"), ("a", 1.0, "b")):
        with pytest.raises(TimeoutError):
            async with policy.hold() as held:
                async for _ in held.items(await held.call(lambda parts=parts: _value(stream(*parts)))):  # type: ignore[misc]
                    pass
    assert policy.snapshot()["breaker"]["failure"] == 2


async def test_after_the_first_item_nothing_is_tried_again() -> None:
    policy = Policy(retry=QUICK)
    async with policy.hold() as held:
        async for _ in held.items(await held.call(lambda: _value(stream("a", "b")))):
            with pytest.raises(RuntimeError):
                await held.call(lambda: _value(stream("a")))
            break


async def _value(source: AsyncIterator[str]) -> AsyncIterator[str]:
    return source


async def test_equal_work_is_done_once_and_a_leaders_cancellation_does_not_kill_followers() -> None:
    runs = 0

    async def work() -> str:
        nonlocal runs
        runs += 1
        await anyio.sleep(0.02)
        return "done"

    results: list[str] = []
    async with SingleFlight() as flights, anyio.create_task_group() as group:
        leader = anyio.CancelScope()

        async def lead() -> None:
            with leader:
                await flights.call("k", work)

        async def follow() -> None:
            results.append(await flights.call("k", work))

        group.start_soon(lead)
        await anyio.sleep(0.001)
        group.start_soon(follow)
        group.start_soon(follow)
        await anyio.sleep(0.001)
        leader.cancel()
    assert (runs, results) == (1, ["done", "done"])
    assert flights.snapshot()["flying"] == 0


async def test_a_flight_is_not_bound_by_its_starters_deadline() -> None:
    async def work() -> str:
        await anyio.sleep(0.05)
        return "done"

    results: list[str] = []
    async with SingleFlight() as flights, anyio.create_task_group() as group:

        async def lead() -> None:
            with pytest.raises(DeadlineExceeded), deadline(0.01):
                await flights.call("k", work)

        async def follow() -> None:
            with deadline(5):
                results.append(await flights.call("k", work))

        group.start_soon(lead)
        await anyio.lowlevel.checkpoint()
        group.start_soon(follow)
    assert results == ["done"]


async def test_when_the_last_waiter_leaves_the_flight_ends_and_nobody_joins_it() -> None:
    cancelled = anyio.Event()
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async with SingleFlight() as flights:
        for expected in (1, 2):
            with anyio.move_on_after(0.01):
                await flights.call("k", work)
            assert flights.snapshot()["flying"] == 0
            assert runs == expected
        with anyio.fail_after(1):
            await cancelled.wait()


async def test_an_error_is_delivered_to_all_and_kept_for_none() -> None:
    flaky = Flaky(OSError("once"))
    errors: list[str] = []
    async with SingleFlight() as flights:

        async def one() -> None:
            try:
                await flights.call("k", flaky)
            except OSError as error:
                errors.append(str(error))

        async with anyio.create_task_group() as group:
            group.start_soon(one)
            group.start_soon(one)
        assert errors == ["once", "once"]
        assert await flights.call("k", flaky) == "ok"


async def test_owner_work_outlives_its_caller_and_ends_with_the_owner() -> None:
    owner = Owner("test")
    await owner.start()
    seen: list[object] = []

    async def work() -> None:
        seen.append(Deadline.current())
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("ended")

    with deadline(5):
        owner.spawn(work, name="work")
        await anyio.sleep(0.001)
    assert seen == [None]
    assert owner.running == 1
    await owner.stop()
    assert seen == [None, "ended"]
    with pytest.raises(NotOpen):
        owner.spawn(work, name="late")


async def test_work_that_fails_is_logged_and_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner("test")
    await owner.start()
    fine = anyio.Event()

    async def broken() -> None:
        raise ValueError("broken")

    async def good() -> None:
        await anyio.sleep(0.005)
        fine.set()

    owner.spawn(broken, name="broken")
    owner.spawn(good, name="good")
    with anyio.fail_after(1):
        await fine.wait()
    await owner.stop()
    assert "broken" in caplog.text


async def test_a_part_is_idempotent_and_refuses_before_and_after() -> None:
    part = Part()
    with pytest.raises(NotOpen):
        part._check_open()
    await part.aclose()
    await part.start()
    await part.start()
    assert part.is_open
    await part.aclose()
    await part.aclose()
    assert not part.is_open
    with pytest.raises(NotOpen):
        part._check_open()


async def test_parts_closes_only_what_it_started() -> None:
    mine, shared = Part(), Part()
    await shared.start()
    parts = Parts()
    await parts.start(mine)
    await parts.start(shared)
    await parts.start(object())
    await parts.aclose()
    assert not mine.is_open
    assert shared.is_open
    await shared.aclose()


def test_another_event_loop_is_refused() -> None:
    part = Part()

    async def use() -> None:
        await part.start()

    async def misuse() -> None:
        with pytest.raises(WrongEventLoop):
            part._check_open()
        part._home = None

    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    anyio.run(misuse)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()


@pytest.mark.blocking_allowed
async def test_a_cancelled_caller_leaves_its_thread_behind_which_keeps_its_place() -> None:
    threads = Threads(1, name="test", queue=0)
    release = threading.Event()
    began = time.perf_counter()
    with anyio.move_on_after(0.02):
        await threads.run(lambda: release.wait(5))
    assert time.perf_counter() - began < 1
    with pytest.raises(Overloaded):
        await threads.run(lambda: None)
    release.set()
    with anyio.fail_after(2):
        while threads.places.inside:
            await anyio.sleep(0.001)
    assert await threads.run(lambda: 7) == 7


async def test_a_threads_error_comes_out_as_itself() -> None:
    def broken() -> None:
        raise ValueError("in the thread")

    with pytest.raises(ValueError, match="in the thread"):
        await Threads(1, name="test").run(broken)

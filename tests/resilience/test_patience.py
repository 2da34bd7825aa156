"""Limits that are paused while a call waits for a place in a queue."""

from __future__ import annotations

import anyio
import pytest

from ragcore.resilience import Bulkhead, DeadlineExceeded, Policy, deadline
from ragcore.resilience.patience import Patience, in_line
from tests.resilience.conftest import Flaky

pytestmark = pytest.mark.anyio


async def test_it_ends_its_block_and_reports_it() -> None:
    began = anyio.current_time()
    with Patience(2) as patience:
        await anyio.sleep(5)
    assert patience.ran_out
    assert patience.has_run_out(anyio.current_time())
    assert anyio.current_time() - began == pytest.approx(2)


async def test_a_block_that_ends_in_time_is_not_cancelled() -> None:
    with Patience(2) as patience:
        await anyio.sleep(1)
    await anyio.sleep(5)
    assert not patience.ran_out
    assert not patience.has_run_out(anyio.current_time())


async def test_only_the_time_outside_queues_counts() -> None:
    began = anyio.current_time()
    with Patience(2) as patience:
        await anyio.sleep(1)
        with in_line():
            await anyio.sleep(10)
            with in_line():
                await anyio.sleep(10)
        await anyio.sleep(5)
    assert patience.ran_out
    assert patience.waited == pytest.approx(20)
    assert anyio.current_time() - began == pytest.approx(22)


async def test_after_heard_there_is_no_limit() -> None:
    with Patience(2) as patience:
        patience.heard()
        with in_line():
            pass
        await anyio.sleep(5)
    assert not patience.ran_out


async def test_an_outer_patience_stands_still_with_the_inner_one() -> None:
    began = anyio.current_time()
    with Patience(3) as outer:
        with Patience(2) as inner, in_line():
            await anyio.sleep(10)
        await anyio.sleep(10)
    assert (inner.ran_out, outer.ran_out) == (False, True)
    assert anyio.current_time() - began == pytest.approx(13)


async def test_a_wait_in_another_task_may_begin_before_its_block() -> None:
    patience = Patience(2)
    patience.pause()

    async def resume() -> None:
        await anyio.sleep(10)
        patience.resume()

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(resume)
        with patience:
            await anyio.sleep(50)
    assert patience.ran_out
    assert anyio.current_time() - began == pytest.approx(12)


async def test_an_attempts_limit_stands_still_while_a_nested_call_waits_for_a_place() -> None:
    inner = Policy("threads", bulkhead=Bulkhead(1), timeout=100)
    outer = Policy("embedder", attempt_timeout=3, timeout=100, retry=False)
    async with anyio.create_task_group() as group:
        group.start_soon(inner.call, Flaky(seconds=8))
        await anyio.wait_all_tasks_blocked()
        began = anyio.current_time()
        assert await outer.call(lambda: inner.call(Flaky(seconds=2))) == "ok"
        assert anyio.current_time() - began == pytest.approx(10, abs=0.2)
        with pytest.raises(TimeoutError, match=r"did not answer within 3\.0 s"):
            await outer.call(lambda: inner.call(Flaky(seconds=5)))


async def test_the_deadline_continues_in_a_queue() -> None:
    inner = Policy(bulkhead=Bulkhead(1), timeout=100)
    outer = Policy(attempt_timeout=3, timeout=100, retry=False)
    async with anyio.create_task_group() as group:
        group.start_soon(inner.call, Flaky(seconds=8))
        await anyio.wait_all_tasks_blocked()
        began = anyio.current_time()
        with pytest.raises(Exception, match="no place within") as caught, deadline(5):
            await outer.call(lambda: inner.call(Flaky()))
        assert not isinstance(caught.value, DeadlineExceeded)
        assert anyio.current_time() - began == pytest.approx(5, abs=0.02)


async def test_a_server_that_never_responds_counts_as_failed_when_the_patience_runs_out() -> None:
    policy = Policy(timeout=100, attempt_timeout=100, retry=False)
    with Patience(2) as patience:
        await policy.call(anyio.sleep_forever)
    assert patience.ran_out
    assert policy.snapshot()["breaker"]["failure"] == 1
    with anyio.move_on_after(2):
        await policy.call(anyio.sleep_forever)
    assert policy.snapshot()["breaker"]["failure"] == 1, "a caller that leaves does not count as a failure"


async def test_a_retry_that_does_not_fit_into_the_patience_is_not_made() -> None:
    from ragcore.resilience import Failure

    policy = Policy(on=lambda error: Failure(retry_after=5), timeout=100)
    with Patience(2) as patience, pytest.raises(OSError):
        await policy.call(Flaky(OSError()))
    assert not patience.ran_out


async def test_a_patience_that_is_never_entered_passes_pauses_on() -> None:
    began = anyio.current_time()
    with Patience(2) as outer:
        unbounded = Patience(float("inf"))
        unbounded.pause()
        await anyio.sleep(10)
        unbounded.resume()
        await anyio.sleep(10)
    assert outer.ran_out
    assert anyio.current_time() - began == pytest.approx(12)

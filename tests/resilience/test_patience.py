"""Limits that stand still while a call waits for a place of ours."""

from __future__ import annotations

import anyio
import pytest

from ragcore.resilience import Bulkhead, DeadlineExceeded, Policy, deadline
from ragcore.resilience.patience import Patience, in_line
from tests.resilience.conftest import Flaky

pytestmark = pytest.mark.anyio


async def test_it_ends_its_block_and_says_so() -> None:
    began = anyio.current_time()
    with Patience(2) as patience:
        await anyio.sleep(5)
    assert patience.ran_out
    assert patience.has_run_out(anyio.current_time())
    assert anyio.current_time() - began == pytest.approx(2)


async def test_what_is_done_in_time_is_left_alone() -> None:
    with Patience(2) as patience:
        await anyio.sleep(1)
    await anyio.sleep(5)
    assert not patience.ran_out
    assert not patience.has_run_out(anyio.current_time())


async def test_time_in_line_does_not_count_and_the_rest_does() -> None:
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


async def test_once_it_has_been_heard_there_is_no_limit() -> None:
    with Patience(2) as patience:
        patience.heard()
        with in_line():
            pass
        await anyio.sleep(5)
    assert not patience.ran_out


async def test_an_outer_one_stands_still_with_the_inner() -> None:
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


async def test_an_attempts_time_stands_still_while_a_call_within_it_waits_for_a_place() -> None:
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


async def test_the_deadline_runs_on_in_line() -> None:
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


async def test_a_black_hole_that_somebody_loses_patience_with_counts_against_it() -> None:
    policy = Policy(timeout=100, attempt_timeout=100, retry=False)
    with Patience(2) as patience:
        await policy.call(anyio.sleep_forever)
    assert patience.ran_out
    assert policy.snapshot()["breaker"]["failure"] == 1
    with anyio.move_on_after(2):
        await policy.call(anyio.sleep_forever)
    assert policy.snapshot()["breaker"]["failure"] == 1, "a caller who leaves says nothing"


async def test_a_retry_that_does_not_fit_into_the_patience_is_not_waited_for() -> None:
    from ragcore.resilience import Failure

    policy = Policy(on=lambda error: Failure(retry_after=5), timeout=100)
    with Patience(2) as patience, pytest.raises(OSError):
        await policy.call(Flaky(OSError()))
    assert not patience.ran_out


async def test_one_that_is_never_entered_passes_on_what_it_is_told() -> None:
    began = anyio.current_time()
    with Patience(2) as outer:
        unbounded = Patience(float("inf"))
        unbounded.pause()
        await anyio.sleep(10)
        unbounded.resume()
        await anyio.sleep(10)
    assert outer.ran_out
    assert anyio.current_time() - began == pytest.approx(12)

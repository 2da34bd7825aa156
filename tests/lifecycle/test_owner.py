"""The owner task."""

from __future__ import annotations

import asyncio
import contextvars

import anyio
import anyio.lowlevel
import pytest

from ragcore import NotOpen
from ragcore.lifecycle.owner import CLEAN_UP, CLEAN_UP_LATE, CLOSE_SECONDS, Owner
from ragcore.resilience import Deadline, deadline

pytestmark = pytest.mark.anyio


async def started(name: str = "test") -> Owner:
    owner = Owner(name)
    await owner.start()
    return owner


async def test_work_outlives_its_caller_inherits_no_context_and_ends_with_the_owner() -> None:
    owner = await started()
    seen: list[object] = []

    async def work() -> None:
        seen.append(Deadline.current())
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("ended")

    with deadline(5):
        owner.spawn(work, name="work")
        await anyio.wait_all_tasks_blocked()
    await anyio.sleep(100)
    assert seen == [None]
    assert owner.running == 1
    await owner.stop()
    assert seen == [None, "ended"]
    assert owner.running == 0
    with pytest.raises(NotOpen, match="test is closed"):
        owner.spawn(work, name="late")


async def test_an_owner_that_is_not_started_refuses_work() -> None:
    with pytest.raises(NotOpen):
        Owner("test").spawn(anyio.lowlevel.checkpoint, name="early")


async def test_work_that_fails_is_logged_and_affects_no_other_work(caplog: pytest.LogCaptureFixture) -> None:
    owner = await started("embedder")
    fine = anyio.Event()

    async def broken() -> None:
        raise ValueError("broken")

    async def good() -> None:
        await anyio.sleep(5)
        fine.set()

    owner.spawn(broken, name="broken")
    owner.spawn(good, name="good")
    assert owner.running == 2
    with anyio.fail_after(6):
        await fine.wait()
    await owner.stop()
    assert "background work of embedder failed" in caplog.text
    assert "ValueError: broken" in caplog.text


async def test_the_caller_waits_for_a_short_clean_up() -> None:
    owner = await started()
    cleaned: list[float] = []

    async def clean() -> None:
        await anyio.sleep(0.1)
        cleaned.append(anyio.current_time())

    began = anyio.current_time()
    await owner.clean_up(clean, name="cleaning")
    assert cleaned == [pytest.approx(began + 0.1)]
    assert anyio.current_time() == pytest.approx(began + 0.1)
    await owner.stop()


async def test_a_long_clean_up_continues_after_the_caller_has_returned() -> None:
    owner = await started()
    cleaned: list[float] = []

    async def clean() -> None:
        await anyio.sleep(2)
        cleaned.append(anyio.current_time())

    began = anyio.current_time()
    await owner.clean_up(clean, name="cleaning")
    assert anyio.current_time() == pytest.approx(began + CLEAN_UP)
    assert cleaned == []
    await anyio.sleep(2)
    assert cleaned == [pytest.approx(began + 2)]
    await owner.stop()


async def test_a_caller_past_its_deadline_waits_only_briefly_for_a_clean_up() -> None:
    owner = await started()
    cleaned: list[str] = []

    async def clean(name: str) -> None:
        await anyio.sleep(0.1)
        cleaned.append(name)

    for name, scope in (("cancelled", anyio.CancelScope()), ("late", anyio.move_on_after(0.1))):
        began = anyio.current_time()
        with scope:
            if name == "cancelled":
                scope.cancel()
            await owner.clean_up(lambda name=name: clean(name), name="cleaning")  # type: ignore[misc]
        assert anyio.current_time() == pytest.approx(began + CLEAN_UP_LATE)
    await anyio.sleep(1)
    assert cleaned == ["cancelled", "late"]
    with anyio.move_on_after(1):
        began = anyio.current_time()
        await owner.clean_up(lambda: clean("in time"), name="cleaning")
        assert anyio.current_time() == pytest.approx(began + 0.1)
    await owner.stop()


async def test_a_clean_up_that_never_ends_is_cancelled_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    owner = await started("pool")
    await owner.clean_up(anyio.sleep_forever, name="closing")
    assert owner.running == 1
    await anyio.sleep(CLOSE_SECONDS)
    assert owner.running == 0
    assert "pool: closing did not end within 5 s" in caplog.text
    await owner.stop()


async def test_after_the_owner_is_closed_a_clean_up_runs_in_the_callers_task_with_its_limit() -> None:
    owner = await started()
    await owner.stop()
    cleaned: list[bool] = []

    async def clean() -> None:
        await anyio.sleep(0.1)
        cleaned.append(True)

    await owner.clean_up(clean, name="cleaning")
    assert cleaned == [True]
    began = anyio.current_time()
    await owner.clean_up(anyio.sleep_forever, name="never")
    assert anyio.current_time() == pytest.approx(began + CLEAN_UP)


async def test_stop_waits_for_clean_ups_and_leaves_uncancellable_work_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    owner = await started("store")
    ended: list[float] = []

    async def slow_to_end(seconds: float) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(seconds)
            ended.append(anyio.current_time())

    owner.spawn(lambda: slow_to_end(3), name="polite")
    await anyio.wait_all_tasks_blocked()
    began = anyio.current_time()
    await owner.stop()
    assert ended == [pytest.approx(began + 3)]
    assert caplog.text == ""

    stubborn = await started("store")
    stubborn.spawn(lambda: slow_to_end(60), name="stubborn")
    await anyio.wait_all_tasks_blocked()
    began = anyio.current_time()
    await stubborn.stop()
    assert anyio.current_time() == pytest.approx(began + CLOSE_SECONDS)
    assert "background work of store ignores its cancellation and was left behind" in caplog.text
    await anyio.sleep(60)


async def test_it_may_be_started_in_one_task_and_stopped_in_another() -> None:
    made: list[Owner] = []

    async def start() -> None:
        made.append(await started())

    async with anyio.create_task_group() as group:
        group.start_soon(start)
    made[0].spawn(anyio.sleep_forever, name="work")
    async with anyio.create_task_group() as group:
        group.start_soon(made[0].stop)
    assert made[0].running == 0


async def test_tasks_have_readable_names() -> None:
    owner = await started("embedder")
    owner.spawn(anyio.sleep_forever, name="flight")
    await anyio.wait_all_tasks_blocked()
    names = {str(task.name) for task in anyio.get_running_tasks()} | {str(anyio.get_current_task().name)}
    assert any("ragcore embedder: flight" in name for name in names)
    await owner.stop()
    words: list[str] = []
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="none")
    variable.set("the starter's")
    other = await started()

    async def look() -> None:
        words.append(variable.get())

    other.spawn(look, name="shared")
    other.spawn(look, name="one caller's", context=contextvars.copy_context())
    await anyio.wait_all_tasks_blocked()
    assert sorted(words) == ["none", "the starter's"]
    await other.stop()


async def test_a_stray_cancellation_ends_only_its_own_work(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")
    owner = await started("embedder")
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def waits_for_another() -> None:
        await future

    owner.spawn(waits_for_another, name="stray")
    owner.spawn(anyio.sleep_forever, name="other")
    await anyio.wait_all_tasks_blocked()
    future.cancel()
    await anyio.wait_all_tasks_blocked()
    assert owner.running == 1
    owner.spawn(anyio.sleep_forever, name="later")
    assert "ended because a task that it awaited was cancelled" in caplog.text
    await owner.stop()
    assert owner.running == 0


async def test_work_that_fails_while_it_is_cancelled_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    owner = await started("store")

    async def fails_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as error:
            raise OSError("while closing") from error

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fails_when_cancelled)
            group.start_soon(anyio.sleep_forever)

    owner.spawn(both, name="both")
    await anyio.wait_all_tasks_blocked()
    await owner.stop()
    assert owner.running == 0
    assert "background work of store failed" in caplog.text

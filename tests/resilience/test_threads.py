"""Blocking functions on separate threads."""

from __future__ import annotations

import contextvars
import math
import threading

import anyio
import pytest

from ragcore.resilience import Overloaded
from ragcore.resilience.threads import Threads

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]


async def test_work_runs_on_a_daemon_thread_with_the_callers_context() -> None:
    word: contextvars.ContextVar[str] = contextvars.ContextVar("word")
    word.set("seen")
    name, daemon, seen = await Threads(2, name="encoder").run(
        lambda: (threading.current_thread().name, threading.current_thread().daemon, word.get())
    )
    assert (name, daemon, seen) == ("ragcore encoder", True, "seen")


async def test_a_cancelled_caller_leaves_its_thread_behind_which_keeps_its_place() -> None:
    threads = Threads(1, name="test", queue=1)
    release = threading.Event()
    with anyio.move_on_after(10) as scope:
        await threads.run(lambda: release.wait(15))
    assert scope.cancelled_caught
    assert threads.places.inside == 1
    async with anyio.create_task_group() as group:
        got: list[int] = []

        async def next_one() -> None:
            got.append(await threads.run(lambda: 7))

        group.start_soon(next_one)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match="test is overloaded"):
            await threads.run(lambda: None)
        release.set()
    assert got == [7]
    assert threads.places.inside == 0


async def test_waiting_until_idle_includes_threads_that_were_left_behind() -> None:
    threads = Threads(1, name="test")
    release, ended = threading.Event(), threading.Event()

    def work() -> None:
        release.wait(15)
        ended.set()

    with anyio.move_on_after(0.01):
        await threads.run(work)
    await threads.wait_until_idle(0.01)
    assert not ended.is_set()
    release.set()
    await threads.wait_until_idle(math.inf)
    assert ended.is_set()
    assert threads.places.inside == 0


async def test_an_error_is_raised_unchanged_and_the_place_is_given_back() -> None:
    def broken() -> None:
        raise ValueError("in the thread")

    threads = Threads(1, name="test")
    with pytest.raises(ValueError, match="in the thread"):
        await threads.run(broken)
    assert threads.places.inside == 0


async def test_a_base_exception_is_raised_where_the_result_is_awaited() -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await Threads(1, name="test").run(leave)


async def test_a_thread_that_can_not_start_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = Threads(1, name="test")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await threads.run(lambda: None)
    assert threads.places.inside == 0


def test_a_thread_that_outlives_its_event_loop_gives_its_place_back() -> None:
    threads = Threads(1, name="test", queue=0)
    release = threading.Event()

    def work() -> None:
        release.wait(15)

    async def main() -> None:
        with anyio.move_on_after(0.01):
            await threads.run(work)

    anyio.run(main)
    thread = next(thread for thread in threading.enumerate() if thread.name == "ragcore test")
    release.set()
    thread.join(15)
    assert threads.places.inside == 0

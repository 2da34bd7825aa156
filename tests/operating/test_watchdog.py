"""The watchdog finds hangs that these tests cause."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import anyio
import pytest

from ragcore import DeadlineExceeded, Document, Settings, events
from ragcore.client.rag import RAG
from ragcore.operating import watchdog
from ragcore.operating.calls import Calls
from ragcore.operating.watchdog import Watchdog, blocking_allowed
from ragcore.testing import FakeEmbedder, Hang, fake_rag

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]

WATCHED = Settings(watchdog=True, drain=0.0)


@pytest.fixture
def heard() -> Iterator[list[events.Event]]:
    """Collect the events of the watchdog."""
    found: list[events.Event] = []
    stop = events.subscribe(
        lambda event: found.append(event) if event.source == "watchdog" or event.name == "call.hung" else None
    )
    yield found
    stop()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(8):
        while not condition():
            await anyio.sleep(0.01)


def named(found: list[events.Event], name: str) -> list[events.Event]:
    return [event for event in found if event.name == name]


@contextmanager
def running(rag: RAG) -> Iterator[None]:
    """Keep a call of the client running, so that the watchdog checks often."""
    with rag._call("ask", "m", 60.0):
        yield


async def test_a_blocked_event_loop_is_reported_with_the_stack_that_blocks_it(
    heard: list[events.Event], caplog: pytest.LogCaptureFixture
) -> None:
    def the_users_own_mistake() -> None:
        time.sleep(1)

    async with fake_rag(settings=WATCHED) as rag:
        with running(rag):
            await anyio.sleep(0.2)
            the_users_own_mistake()
            await until(lambda: bool(named(heard, "loop.unblocked")))
    assert len(named(heard, "loop.blocked")) == 1
    assert "the_users_own_mistake" in named(heard, "loop.blocked")[0].data["stack"]
    assert 0.8 < named(heard, "loop.unblocked")[0].data["seconds"] < 5
    assert "the event loop has been blocked" in caplog.text
    assert "the event loop is no longer blocked" in caplog.text


@pytest.mark.slow
async def test_the_error_of_a_call_names_the_time_for_which_the_loop_was_blocked(heard: list[events.Event]) -> None:
    embedder = FakeEmbedder()
    async with fake_rag(embedder=embedder, settings=WATCHED) as rag:
        await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        embedder.faults.always(Hang())
        await anyio.sleep(0.2)

        async def block() -> None:
            await anyio.sleep(0.1)
            time.sleep(1.5)

        async with anyio.create_task_group() as group:
            group.start_soon(block)
            with pytest.raises(DeadlineExceeded, match=r"the event loop was blocked for 1\.\d s"):
                await rag.ask("What is my deductible?", tenant="m", timeout=0.5, degrade=False)
        await until(lambda: bool(named(heard, "loop.unblocked")))
    assert named(heard, "call.hung") == []  # a call can't return while the loop is blocked


def test_a_loop_that_is_not_running_is_not_blocked(heard: list[events.Event]) -> None:
    rag = fake_rag(settings=WATCHED)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(rag.start())
    time.sleep(0.4)
    loop.run_until_complete(asyncio.sleep(0.2))
    assert heard == []
    assert rag._calls.blocked == 0
    assert rag._watchdog is not None
    thread = rag._watchdog._thread
    assert thread is not None
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    time.sleep(0.3)
    loop.close()
    thread.join(5)
    assert not thread.is_alive()


def test_a_block_ends_for_listeners_even_if_the_loop_stops_right_after_it(heard: list[events.Event]) -> None:
    """Otherwise the metric `event_loop_blocked_now` would stay at 1, and its alert would never end."""
    rag = fake_rag(settings=WATCHED)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(rag.start())

    async def block() -> None:
        rag._calls.begin("ask", "a", 60)  # while a call runs, the watchdog checks often
        await asyncio.sleep(0.3)
        time.sleep(0.6)

    loop.run_until_complete(block())
    end = time.monotonic() + 5
    while not (named(heard, "loop.unblocked") or named(heard, "loop.starved")) and time.monotonic() < end:
        time.sleep(0.02)
    # On a starved machine, the watchdog can't tell who blocks the loop, and reports only the end.
    assert [event.name for event in heard] in (["loop.blocked", "loop.unblocked"], ["loop.starved"])
    loop.run_until_complete(rag.aclose())
    loop.close()


@pytest.mark.slow
async def test_an_uncancellable_call_is_reported_with_the_place_where_it_waits(
    heard: list[events.Event], caplog: pytest.LogCaptureFixture
) -> None:
    released = anyio.Event()

    async def ignores_its_cancellation() -> None:
        with anyio.CancelScope(shield=True):
            await released.wait()

    async with fake_rag(settings=WATCHED) as rag:
        with suppress(DeadlineExceeded), rag._call("ask", "m", 0.2) as call:
            assert call.task is not None
            async with anyio.create_task_group() as group:
                group.start_soon(_release_when, released, lambda: bool(named(heard, "call.hung")))
                await ignores_its_cancellation()
    said = named(heard, "call.hung")
    assert len(said) == 1
    assert said[0].source == "ask"
    assert said[0].data["id"] == call.id
    assert "ignores_its_cancellation" in said[0].data["stack"]
    assert "ignores its cancellation" in caplog.text


async def _release_when(released: anyio.Event, condition: Callable[[], bool]) -> None:
    with anyio.CancelScope(shield=True):
        await until(condition)
        released.set()


async def test_a_full_default_executor_is_reported_once_with_the_stacks_of_its_threads(
    heard: list[events.Event], anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("trio has no default executor")
    release = threading.Event()

    def abandoned_call() -> None:
        release.wait(10)

    loop = asyncio.get_running_loop()
    async with fake_rag(settings=WATCHED):
        work = [loop.run_in_executor(None, abandoned_call) for _ in range(60)]
        await until(lambda: bool(named(heard, "executor.saturated")))
        await anyio.sleep(0.2)
        release.set()
        await asyncio.gather(*work)
    said = named(heard, "executor.saturated")
    assert len(said) == 1
    assert said[0].data["queued"] > 0
    assert "abandoned_call" in said[0].data["stack"]
    assert "default executor is full" in caplog.text


async def test_a_late_call_is_no_hang_before_the_loop_has_passed_some_times(heard: list[events.Event]) -> None:
    """On a starved machine, a cancelled call needs long to end, because the loop hardly runs."""
    calls = Calls(recent=1)
    dog = Watchdog(calls)
    call = calls.begin("ask", "m", 1.0)
    with call:
        dog._loop_time = call.when + 10
        for _ in range(20):
            dog._check_calls()
        assert heard == []
        for _ in range(watchdog.PASSES):
            dog._beats += 1
        dog._check_calls()
        dog._check_calls()
    call.finish("ok")
    assert [event.name for event in heard] == ["call.hung"]


async def test_without_a_hang_nothing_is_reported_and_the_thread_ends(heard: list[events.Event]) -> None:
    async with fake_rag(settings=WATCHED) as rag:
        await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        for _ in range(5):
            await rag.ask("What is my deductible?", tenant="m")
        assert rag._watchdog is not None
        assert rag._watchdog.watching
        thread = rag._watchdog._thread
        assert thread is not None
        await anyio.sleep(0.3)
    assert not rag._watchdog.watching
    await until(lambda: not thread.is_alive())
    assert named(heard, "call.hung") == []


async def test_the_watchdog_can_be_switched_off(rag: RAG) -> None:
    assert rag._watchdog is None
    assert Settings().watchdog


def test_the_watchdog_ends_when_its_loop_is_closed() -> None:
    rag = fake_rag(settings=WATCHED)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(rag.start())
    assert rag._watchdog is not None
    thread = rag._watchdog._thread
    assert thread is not None
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.slow
def test_a_cell_of_a_notebook_that_blocks_the_kernel_is_not_reported() -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(source)
            for source in (
                "import asyncio, time, ragcore\nfrom ragcore import events, testing",
                "seen = []\nunsubscribe = events.subscribe(lambda event: seen.append(event.name))",
                "retriever = ragcore.Retriever(store=ragcore.MemoryStore(), embedder=testing.FakeEmbedder())",
                "rag = ragcore.RAG(retriever=retriever, generator=testing.FakeGenerator())\nawait rag.start()",
                "time.sleep(0.5)",
                "seen",
                # Code that the loop runs beside the cell.
                "task = asyncio.get_running_loop().call_soon(time.sleep, 2.5)\nawait asyncio.sleep(2.7)",
                "seen",
                "await rag.aclose()",
            )
        ]
    )
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    shown = [output.data["text/plain"] for cell in notebook.cells for output in cell.outputs if "data" in output]
    assert shown == ["[]", "['loop.blocked', 'loop.unblocked']"]


STARVED = """
import asyncio, json, multiprocessing, os, sys, time
from ragcore import Settings, events
from ragcore.testing import fake_rag

heard = []
events.subscribe(lambda event: heard.append(event.name))


def hog():
    while True:
        pass


async def main():
    async with fake_rag(settings=Settings(watchdog=True, drain=0.0)) as rag:
        with rag._call("ask", "m", 600.0):
            await asyncio.sleep(0.2)
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            hogs = [multiprocessing.get_context("fork").Process(target=hog, daemon=True) for _ in range(8)]
            for one in hogs:
                one.start()
            os.nice(19)
            until = time.monotonic() + 60
            while "loop.starved" not in heard and time.monotonic() < until:
                await asyncio.sleep(0.01)
            for one in hogs:
                one.kill()


if "uvloop" in sys.argv:
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
print(json.dumps(sorted({name for name in heard if name.startswith("loop.")})))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system can't keep processes on one processor")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_process_that_gets_no_processor_is_called_starved_and_never_blocked(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    done = subprocess.run(
        [sys.executable, "-c", STARVED, loop], capture_output=True, text=True, timeout=110, check=True
    )
    assert done.stdout.strip() == '["loop.starved"]', done.stderr
    assert "the event loop was ready to run and did not run" in done.stderr


async def test_a_loop_that_waits_for_io_and_does_not_respond_is_called_starved(
    heard: list[events.Event], monkeypatch: pytest.MonkeyPatch, anyio_backend_name: str
) -> None:
    """The loop's thread waits in its poller, and the message to it is lost for a while: this is what the watchdog sees on a starved machine."""
    if anyio_backend_name == "trio":
        pytest.skip("anyio's plugin runs trio as a guest, which waits on a queue")
    async with fake_rag(settings=WATCHED) as rag:
        with running(rag):
            assert rag._watchdog is not None
            await anyio.sleep(0.2)
            late = time.perf_counter() + 0.5
            beat = rag._watchdog._beat
            monkeypatch.setattr(rag._watchdog, "_beat", lambda: beat() if time.perf_counter() > late else None)
            await until(lambda: rag._watchdog is not None and rag._watchdog._blocked_since is not None)
            rag._watchdog._beat()
            await anyio.sleep(0.5)
            beat()
            await until(lambda: bool(named(heard, "loop.starved")))
    assert named(heard, "loop.blocked") == named(heard, "loop.unblocked") == []


@pytest.mark.parametrize(("overslept", "used", "starved"), [(1.0, 0.9, False), (1.0, 0.1, True), (0.1, 0.0, False)])
def test_computing_in_c_keeps_the_watchdog_from_running_and_is_no_starvation(
    overslept: float, used: float, starved: bool
) -> None:
    """It uses the processor. A process that is stopped, or that others keep from running, does not."""
    dog = Watchdog(Calls(recent=1))
    dog._asked, dog._slept_over, dog._used = 0.0, overslept, used
    assert dog._did_not_run(1.2, 0.0) is starved


async def test_what_a_start_blocks_on_purpose_is_not_reported(heard: list[events.Event]) -> None:
    async with fake_rag(settings=WATCHED) as rag:
        with running(rag):
            await anyio.sleep(0.2)
            with blocking_allowed():
                time.sleep(0.5)
            await anyio.sleep(0.3)
            assert heard == []
            time.sleep(0.5)  # afterwards, it is a mistake again
            await until(lambda: bool(named(heard, "loop.blocked")))


async def test_components_that_block_while_they_start_are_not_reported(heard: list[events.Event]) -> None:
    class Heavy(FakeEmbedder):
        async def _open(self) -> None:
            time.sleep(0.5)

    async with fake_rag(embedder=Heavy(), settings=WATCHED):
        await anyio.sleep(0.2)
    assert heard == []


async def test_an_idle_watchdog_is_rarely_woken_and_the_first_call_wakes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[float] = []
    check = Watchdog._check_loop

    def counted(self: Watchdog, *args: object) -> None:
        checks.append(time.perf_counter())
        check(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Watchdog, "_check_loop", counted)
    # So long that, without being woken, no check follows during this test.
    monkeypatch.setattr(watchdog, "IDLE_INTERVAL", 30.0)
    async with fake_rag(settings=WATCHED) as rag:
        await anyio.sleep(1.0)
        assert len(checks) <= 2
        with running(rag):
            before = len(checks)
            await until(lambda: len(checks) > before + 2)


async def test_the_loop_is_asked_once_in_an_idle_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    beat = Watchdog._beat

    def counted(self: Watchdog) -> None:
        nonlocal asked
        asked += 1
        beat(self)

    monkeypatch.setattr(Watchdog, "_beat", counted)
    monkeypatch.setattr(watchdog, "IDLE_INTERVAL", 30.0)
    dog = Watchdog(Calls(recent=1))
    dog.start()
    try:
        await anyio.sleep(1.0)
    finally:
        dog.stop()
    assert asked <= 1

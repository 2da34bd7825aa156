"""The client without `await`."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import suppress

import anyio
import pytest
from tests.pace import in_time

import ragcore
from ragcore import DeadlineExceeded, Document, Retriever, Settings, blocking
from ragcore.blocking.loop import ThreadDeadline, background
from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, FakeStore, Hang


def made() -> blocking.RAG:
    return blocking.RAG(retriever=Retriever(embedder=FakeEmbedder(), store=FakeStore()), generator=FakeGenerator())


@pytest.fixture
def client() -> Iterator[blocking.RAG]:
    with made() as rag:
        rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        yield rag


def test_many_threads_can_call_at_once(client: blocking.RAG) -> None:
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.ask("deductible?", tenant="m").found)) for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 40


def test_each_method_answers_without_await(client: blocking.RAG) -> None:
    member = client.for_tenant("m")
    assert member.tenant == "m"
    assert member.retrieve("deductible?").passages
    assert client.retrieve("deductible?", tenant="m").passages
    assert client.similarity("deductible?", tenant="m").chunks == 1
    with client.stream("deductible?", tenant="m") as stream:
        names = [type(event).__name__ for event in stream]
    assert (names[0], names[-1]) == ("Retrieved", "Done")
    with member.stream("deductible?") as stream:
        assert stream.answer().found
    assert list(client.documents(tenant="m")) == ["d"]
    assert client.health().ready
    assert client.describe()["embedder"]["model"] == "fake"
    assert client.stats().calls["running"] == 0
    assert client.inflight() == ()
    assert client.recent()
    assert client.delete(["d"], tenant="m") == 1
    with pytest.raises(ragcore.InvalidInput):
        client.ask("", tenant="m")


def test_many_questions_are_read_in_the_calling_thread_as_far_as_there_is_room(client: blocking.RAG) -> None:
    threads: set[int] = set()
    seen: list[ragcore.AskProgress] = []
    read = 0

    def questions() -> Iterator[str]:
        nonlocal read
        for number in range(20):
            threads.add(threading.get_ident())
            read += 1
            yield f"deductible {number}?" if number != 3 else ""

    with client.ask_many(questions(), tenant="m", concurrency=3, progress=seen.append) as answers:
        first = next(answers)
        assert read == 3
        found = [first, *answers]
    assert sorted(asked.index for asked in found) == list(range(20))
    assert [asked.index for asked in found if asked.error] == [3]
    assert threads == {threading.get_ident()}
    assert (seen[-1].asked, seen[-1].answered, seen[-1].failed) == (20, 19, 1)
    with client.for_tenant("m").ask_many(["deductible?", "and the deductible?"]) as answers:
        assert [asked.index for asked in answers.all()] == [0, 1]
    assert client.inflight() == ()


def test_many_questions_may_be_left_early_and_an_error_of_the_iterable_is_raised(client: blocking.RAG) -> None:
    def questions() -> Iterator[str]:
        yield "deductible?"
        raise KeyError("the user's own")

    with client.ask_many((f"deductible {number}?" for number in range(1_000)), tenant="m") as answers:
        next(answers)
    assert client.inflight() == ()
    with pytest.raises(KeyError), client.ask_many(questions(), tenant="m", concurrency=1) as answers:
        assert next(answers).answer is not None
        next(answers)
    with pytest.raises(ragcore.InvalidInput, match="concurrency"), client.ask_many([], tenant="m", concurrency=0):
        pass
    with client.ask_many([], tenant="m") as answers:
        assert answers.all() == ()


def test_the_first_call_starts_the_client_and_a_closed_client_may_be_started_again() -> None:
    client = made()
    assert not client.ask("q", tenant="m").found
    client.close()
    client.close()
    with pytest.raises(ragcore.NotOpen, match="closed"):
        client.ask("q", tenant="m")
    client.start()
    assert not client.ask("q", tenant="m").found
    client.close()


def test_a_finished_start_is_not_reused_for_the_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = background.submit

    def slow_to_return(fn: Callable[[], Awaitable[object]]) -> futures.Future[object]:
        future = submit(fn)
        futures.wait([future], 10)
        return future

    monkeypatch.setattr(background, "submit", slow_to_return)
    client = made()
    client.start()
    client.close()
    client.start()
    assert not client.ask("q", tenant="m").found
    client.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_a_forked_child_the_parents_client_raises_and_a_new_one_works() -> None:
    script = """
        import os, sys
        from ragcore import NotOpen, Retriever, blocking
        from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, FakeStore, Hang

        def made():
            return blocking.RAG(retriever=Retriever(embedder=FakeEmbedder(), store=FakeStore()), generator=FakeGenerator())

        started, fresh = made(), made()
        started.ask("q", tenant="m")
        pid = os.fork()
        if pid == 0:
            try:
                started.ask("q", tenant="m")
            except NotOpen as error:
                assert "forked" in str(error)
                assert not fresh.ask("q", tenant="m").found
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert not started.ask("q", tenant="m").found
        print("clean")
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "clean", "")


SCRIPT = """
import os, sys
from ragcore import Document, Retriever, blocking
from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, FakeStore, Hang
rag = blocking.RAG(
    retriever=Retriever(embedder=FakeEmbedder(), store=FakeStore()), generator=FakeGenerator(token_latency=0.1)
)
rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
"""


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("stream = rag.stream('q', tenant='m'); next(stream.__enter__())", 0),
        (
            "def events():\n with rag.stream('q', tenant='m') as stream:\n  yield from stream\npieces = events(); next(pieces); sys.exit(3)",
            3,
        ),
        (
            "stream = rag.stream('q', tenant='m'); next(stream.__enter__())\nif os.fork() == 0: sys.exit(0)\nsys.exit(os.waitstatus_to_exitcode(os.wait()[1]))",
            0,
        ),
        ("class Late:\n def __del__(self):\n  rag.stats()\nlate = Late()", 0),
    ],
)
@pytest.mark.slow
def test_a_process_ends_although_a_stream_is_open(how: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT + how], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr


@pytest.mark.slow
def test_a_client_that_is_closed_during_calls_stays_closed() -> None:
    for _ in range(30):
        rag, stop = made(), threading.Event()
        rag.start()

        def calls(rag: blocking.RAG = rag, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                with suppress(ragcore.NotOpen):
                    rag.stats()

        threads = [threading.Thread(target=calls) for _ in range(4)]
        for thread in threads:
            thread.start()
        rag.close()
        opened = []
        for _ in range(50):
            time.sleep(0.0002)
            opened.append(rag._rag.is_open)
        stop.set()
        for thread in threads:
            thread.join()
        assert not any(opened)


def test_a_slow_generator_of_documents_does_not_block_other_calls(client: blocking.RAG) -> None:
    seen: list[int] = []
    reading, go_on = threading.Event(), threading.Event()

    def documents() -> Iterator[Document]:
        for number in range(100):
            if number == 50:
                reading.set()
                assert go_on.wait(10)
            seen.append(threading.get_ident())
            yield Document(f"n{number}", "Text.")

    reports: list[ragcore.IngestReport] = []
    adding = threading.Thread(target=lambda: reports.append(client.add(documents(), tenant="n")))
    adding.start()
    assert reading.wait(10)
    assert client.ask("deductible?", tenant="m", timeout=5).found
    go_on.set()
    adding.join(10)
    assert reports[0].added == 100
    assert set(seen) == {adding.ident}

    def broken() -> Iterator[Document]:
        yield Document("a", "Text.")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        client.add(broken(), tenant="n")

    def confusing() -> Iterator[Document]:
        yield Document("a", "Text.")
        raise anyio.BrokenResourceError

    with pytest.raises(anyio.BrokenResourceError):
        client.add(confusing(), tenant="n")

    def endless() -> Iterator[int]:
        while True:
            yield 1

    with pytest.raises(ragcore.InvalidInput):
        client.add(endless(), tenant="n")  # type: ignore[arg-type]


def block_the_loop(seconds: float) -> threading.Thread:
    """Block the background event loop, like a computation in the user's code. Return when the loop is blocked."""
    begun = threading.Event()

    async def badly() -> None:
        begun.set()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass

    thread = threading.Thread(target=background.call, args=(badly, ThreadDeadline(60)))
    thread.start()
    assert begun.wait(5)
    return thread


@pytest.mark.parametrize("method", ["ask", "retrieve", "delete", "documents", "similarity", "stream"])
@pytest.mark.slow
def test_the_deadline_holds_although_the_background_loop_is_blocked(client: blocking.RAG, method: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "ask": lambda: client.ask("q", tenant="m", timeout=0.2),
        "retrieve": lambda: client.retrieve("q", tenant="m", timeout=0.2),
        "delete": lambda: client.delete(["d"], tenant="m", timeout=0.2),
        "documents": lambda: client.documents(tenant="m", timeout=0.2),
        "similarity": lambda: client.for_tenant("m").similarity("q", timeout=0.2),
        "stream": lambda: client.stream("q", tenant="m", timeout=0.2).__enter__(),
    }
    client.start()
    thread = block_the_loop(0.8)
    began = time.monotonic()
    with pytest.raises(
        DeadlineExceeded, match=r"no answer within 0\.2 s, and the background event loop did not respond"
    ):
        calls[method]()
    assert in_time(time.monotonic() - began, 0.7)
    thread.join()
    assert client.inflight() == ()


def test_a_stream_ends_at_its_deadline_although_the_background_loop_is_blocked(client: blocking.RAG) -> None:
    with client.stream("What is my deductible?", tenant="m", timeout=0.5) as stream:
        next(stream)
        thread = block_the_loop(1.2)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            list(stream)
        assert in_time(time.monotonic() - began, 0.9)
        thread.join()


def test_the_first_call_waits_for_another_threads_start_only_until_its_deadline() -> None:
    client = made()
    with client._lock:  # a thread that starts the client on a blocked loop holds this lock
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.ask("q", tenant="m", timeout=0.2)
        assert in_time(time.monotonic() - began, 1)
    client.close()


def test_a_garbage_collected_client_is_closed_and_leaves_no_thread() -> None:
    def threads() -> set[str]:
        return {thread.name for thread in threading.enumerate()}

    def use() -> FakeStore:
        store = FakeStore()
        client = blocking.RAG(retriever=Retriever(store=store, embedder=FakeEmbedder()), generator=FakeGenerator())
        client.for_tenant("m").documents()
        assert store.is_open
        return store

    background.running()
    before = threads()
    stores = [use() for _ in range(3)]
    gc.collect()
    for _ in range(200):
        if not any(store.is_open for store in stores) and threads() <= before:
            break
        time.sleep(0.02)
    assert not any(store.is_open for store in stores)
    assert threads() <= before
    assert background._open == []


def slow_to_start(seconds: float) -> blocking.RAG:
    class Slow(FakeStore):
        async def _open(self) -> None:
            await anyio.sleep(seconds)

    return blocking.RAG(retriever=Retriever(embedder=FakeEmbedder(), store=Slow()), generator=FakeGenerator())


def test_a_start_that_takes_longer_than_a_call_continues_for_the_next_one() -> None:
    client = slow_to_start(0.5)
    with pytest.raises(DeadlineExceeded, match=r"the client did not start within 0\.\d s"):
        client.documents(tenant="m", timeout=0.15)
    assert client.documents(tenant="m", timeout=2) == {}
    client.close()


def test_the_time_of_a_start_counts_towards_the_calls_timeout() -> None:
    client = slow_to_start(0.4)
    client._rag._generators.given.faults.always(Hang())  # type: ignore[attr-defined]
    began = time.monotonic()
    with suppress(ragcore.RagcoreError):
        client.ask("What is my deductible?", tenant="m", timeout=0.8)
    assert in_time(time.monotonic() - began, 1.0)
    client.close()


@pytest.mark.slow
def test_a_blocked_loop_does_not_hide_an_error_in_the_block_of_a_stream(client: blocking.RAG) -> None:
    thread = None
    with pytest.raises(ValueError, match="mine"), client.stream("What is my deductible?", tenant="m") as stream:
        next(stream)
        thread = block_the_loop(2.5)
        raise ValueError("mine")
    assert thread is not None
    thread.join()


def test_a_late_reader_gets_the_deadline_error_and_not_that_of_a_blocked_loop(client: blocking.RAG) -> None:
    with client.stream("What is my deductible?", tenant="m", timeout=0.2) as stream:
        next(stream)
        time.sleep(0.4)
        with pytest.raises(DeadlineExceeded, match="the time ran out in stage"):
            list(stream)


def test_a_generator_of_documents_is_closed_when_adding_them_fails(client: blocking.RAG) -> None:
    client.start()
    client.retriever.embedder.faults.always(Fail(500))  # type: ignore[union-attr]
    closed = []

    def documents() -> Iterator[Document]:
        try:
            for number in range(10_000):
                yield Document(str(number), "text")
        finally:
            closed.append(True)

    with pytest.raises(ragcore.EmbeddingError):
        client.add(documents(), tenant="m")
    assert closed == [True]


def test_an_error_of_the_questions_is_raised_after_the_results_of_the_questions_before_it(
    client: blocking.RAG,
) -> None:
    def questions() -> Iterator[str]:
        yield "deductible?"
        yield "and the deductible?"
        raise KeyError("the user's own")

    with client.ask_many(questions(), tenant="m", concurrency=4) as answers:
        assert {next(answers).index, next(answers).index} == {0, 1}
        for _ in range(2):
            with pytest.raises(KeyError, match="the user's own"):
                next(answers)


def test_questions_of_an_async_iterable_may_arrive_later_than_the_timeout_of_one_question(
    client: blocking.RAG,
) -> None:
    async def questions() -> AsyncIterator[str]:
        yield "deductible?"
        await anyio.sleep(1.0)
        yield "and the deductible?"

    with client.ask_many(questions(), tenant="m", timeout=0.5) as answers:
        assert [asked.index for asked in answers] == [0, 1]


def test_the_time_of_a_start_counts_towards_the_timeout_of_a_stream() -> None:
    client = slow_to_start(0.4)
    with client.stream("What is my deductible?", tenant="m", timeout=60) as stream:
        left = stream._deadline.remaining()

        async def left_on_the_loop() -> float:
            return stream._stream._call.remaining()

        assert background.call(left_on_the_loop, ThreadDeadline(10)) <= left
    client.close()


def test_ids_are_read_in_the_calling_thread(client: blocking.RAG) -> None:
    threads: set[int] = set()

    def ids() -> Iterator[str]:
        threads.add(threading.get_ident())
        yield "d"

    assert not client.chunks_by_id(ids(), tenant="m")
    assert client.delete(ids(), tenant="m") == 1
    assert threads == {threading.get_ident()}


def test_health_of_a_slow_start_and_a_store_that_never_responds_raises_nothing() -> None:
    class Slow(FakeStore):
        async def _open(self) -> None:
            await anyio.sleep(0.4)

        async def ping(self) -> None:
            await anyio.sleep_forever()

    client = blocking.RAG(
        retriever=Retriever(embedder=FakeEmbedder(), store=Slow()),
        generator=FakeGenerator(),
        settings=Settings(health_timeout=0.8),
    )
    assert not client.health().ready
    assert client.describe()["embedder"]["model"] == "fake"
    client.close()

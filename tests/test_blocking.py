"""The client without await."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest

import ragcore
from ragcore import Document, Retriever, blocking
from ragcore.testing import FakeEmbedder, FakeGenerator, FakeStore


def made() -> blocking.RAG:
    return blocking.RAG(retriever=Retriever(embedder=FakeEmbedder(), store=FakeStore()), generator=FakeGenerator())


@pytest.fixture
def client() -> Iterator[blocking.RAG]:
    with made() as rag:
        rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        yield rag


def test_from_many_threads_at_once(client: blocking.RAG) -> None:
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.ask("deductible?", tenant="m").found)) for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 40


def test_all_methods(client: blocking.RAG) -> None:
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


def test_it_starts_itself_at_the_first_call_and_may_be_closed_and_used_again() -> None:
    client = made()
    assert not client.ask("q", tenant="m").found
    client.close()
    client.close()
    with pytest.raises(ragcore.NotOpen, match="closed"):
        client.ask("q", tenant="m")
    client.start()
    assert not client.ask("q", tenant="m").found
    client.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_a_forked_child_a_clear_error_and_a_fresh_one_works() -> None:
    script = """
        import os, sys
        from ragcore import NotOpen, Retriever, blocking
        from ragcore.testing import FakeEmbedder, FakeGenerator, FakeStore

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

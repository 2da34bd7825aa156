"""The cache of questions' vectors: its entries, tenants, expiry and limit."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import (
    RAG,
    CachedEmbedder,
    Config,
    ConfigurationError,
    Document,
    EmbeddingError,
    MemoryStore,
    OpenAIEmbedder,
    Retriever,
)
from ragcore.client.components import cached, make_embedder
from ragcore.embedding.cache import OVERHEAD
from ragcore.protocols import Embedder, Vector
from ragcore.resilience import Bulkhead, Policy, flow
from ragcore.resilience.patience import Patience, in_line
from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, OpenAIServer
from ragcore.types import Kind
from ragcore.types.secret import Secret

pytestmark = pytest.mark.anyio


async def test_the_same_question_needs_no_second_request_and_other_kinds_are_not_kept() -> None:
    inner = FakeEmbedder()
    async with CachedEmbedder(inner) as embedder:
        assert isinstance(embedder, Embedder)
        first = await embedder.embed(["a"], kind="query")
        first[:] = 0  # a caller that changes its vector does not change the cache
        again = await embedder.embed(["a"], kind="query")
        both = await embedder.embed(["a", "b", "a"], kind="query")
        for _ in range(2):
            await embedder.embed(["a"], kind="document")
    assert inner.calls == [("a",), ("b",), ("a",), ("a",)]
    assert np.array_equal(again[0], both[0])
    assert np.array_equal(both[0], both[2])
    assert np.linalg.norm(again) == pytest.approx(1)


async def test_missing_names_the_texts_that_a_request_would_send_and_changes_nothing() -> None:
    inner = FakeEmbedder()
    async with (
        CachedEmbedder(inner, kinds=("query",)) as questions,
        CachedEmbedder(questions, kinds=("document",)) as both,
    ):
        with flow("t"):
            await both.embed(["a"], kind="query")
            await both.embed(["a"], kind="document")
            before = (questions.snapshot(), both.snapshot())
            assert both.missing(["b", "a", "b"], kind="query") == ["b"]
            assert both.missing(["b", "a"], kind="document") == ["b"]
            assert questions.missing(["a"], kind="document") == ["a"]
            assert (questions.snapshot(), both.snapshot()) == before
        with flow("u"):
            assert both.missing(["a"], kind="query") == both.missing(["a"], kind="document") == ["a"]


async def test_tenants_have_their_own_entries_by_default() -> None:
    for shared, requests in ((False, 2), (True, 1)):
        inner = FakeEmbedder()
        async with CachedEmbedder(inner, shared=shared) as embedder:
            for tenant in ("t", "u", "t", "u"):
                with flow(tenant):
                    await embedder.embed(["a"], kind="query")
            assert len(inner.calls) == requests
            embedder.clear(tenant="t")
            assert embedder.snapshot()["entries"] == 1


async def test_an_entry_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = FakeEmbedder()
    now = anyio.current_time()
    monkeypatch.setattr("ragcore.embedding.cache.anyio.current_time", lambda: now)
    async with CachedEmbedder(inner, ttl=10) as embedder:
        await embedder.embed(["a"], kind="query")
        now += 9.9
        await embedder.embed(["a"], kind="query")
        assert len(inner.calls) == 1
        now += 0.2
        await embedder.embed(["a"], kind="query")
    assert len(inner.calls) == 2


@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.integers(1, 6))
def test_the_last_used_entries_are_kept_within_the_limit(asked: list[str], most: int) -> None:
    async def ask() -> None:
        inner = FakeEmbedder()
        size = inner.dimension * 4 + OVERHEAD
        kept: list[str] = []
        async with CachedEmbedder(inner, max_bytes=most * size) as embedder:
            for text in asked:
                before = len(inner.calls)
                await embedder.embed([text], kind="query")
                assert (len(inner.calls) == before) is (text in kept)
                kept = [*(other for other in kept if other != text), text][-most:]
                shown = embedder.snapshot()
                assert shown["bytes"] == len(kept) * size <= shown["max_bytes"]
                assert shown["entries"] == len(kept)
            assert embedder.snapshot()["hits"] + embedder.snapshot()["misses"] == len(asked)

    anyio.run(ask)


async def test_failures_are_not_kept() -> None:
    inner = FakeEmbedder()
    inner.faults.next(Fail(503))
    async with CachedEmbedder(inner) as embedder:
        with pytest.raises(EmbeddingError):
            await embedder.embed(["a"], kind="query")
        await embedder.embed(["a"], kind="query")
        assert embedder.snapshot()["entries"] == 1

    class Nonsense(FakeEmbedder):
        async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
            return np.zeros((len(texts), self.dimension), np.float32)

    async with CachedEmbedder(Nonsense()) as embedder:
        with pytest.raises(EmbeddingError, match="zero"):
            await embedder.embed(["a"], kind="query")
        assert embedder.snapshot()["entries"] == 0


class Slow(FakeEmbedder):
    """A slow embedder that embeds one text after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.places = Bulkhead(1, queue=9)
        self.began = anyio.Event()

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        with in_line():
            await self.places.acquire(anyio.current_time() + 60)
        try:
            self.began.set()
            await anyio.sleep(0.05)
            return await super().embed(texts, kind=kind)
        finally:
            self.places.release()


async def test_equal_texts_share_a_request_and_a_caller_that_leaves_does_not_end_it() -> None:
    inner = Slow()
    vectors: list[Vector] = []
    async with CachedEmbedder(inner) as embedder:

        async def ask() -> None:
            vectors.append(await embedder.embed(["a"], kind="query"))

        async with anyio.create_task_group() as group:
            leaving = anyio.CancelScope()

            async def leave() -> None:
                with leaving:
                    await embedder.embed(["a"], kind="query")

            group.start_soon(leave)
            await inner.began.wait()
            for _ in range(4):
                group.start_soon(ask)
            await anyio.sleep(0.01)
            leaving.cancel()
    assert len(inner.calls) == 1
    assert len(vectors) == 4


async def test_the_wait_for_a_place_does_not_count_as_silence_for_any_sharing_caller() -> None:
    inner = Slow()
    out: list[bool] = []
    async with CachedEmbedder(inner) as embedder:

        async def ask(text: str, seconds: float) -> None:
            with Patience(seconds) as patience:
                await embedder.embed([text], kind="query")
            out.append(patience.ran_out)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(ask, f"other {number}", 9.0)
            await inner.began.wait()
            await anyio.sleep(0.01)
            group.start_soon(ask, "a", 0.12)  # waits for 0.1 s, and is then embedded in 0.05 s
            await anyio.sleep(0.01)
            group.start_soon(ask, "a", 0.12)
    assert out == [False] * 5


async def test_cleared_entries_do_not_come_back() -> None:
    inner = Slow()
    async with CachedEmbedder(inner) as embedder, anyio.create_task_group() as group:

        async def ask() -> None:
            await embedder.embed(["a"], kind="query")

        group.start_soon(ask)
        await inner.began.wait()
        embedder.clear()
    assert embedder.snapshot()["entries"] == 0


async def test_statistics_count_the_hits_of_a_clients_questions() -> None:
    async with OpenAIServer() as server:
        embedder = CachedEmbedder(
            OpenAIEmbedder("fake", dimension=64, base_url=server.base_url, api_key="k", policy=Policy(retry=False))
        )
        async with RAG(retriever=Retriever(store=MemoryStore(), embedder=embedder), generator=FakeGenerator()) as rag:
            await rag.add([Document("d", "A visit costs $40.")], tenant="t")
            before = len(server.requests)
            for _ in range(3):
                await rag.ask("How much is a visit?", tenant="t")
            assert len(server.requests) == before + 1
            await rag.ask("How much is a visit?", tenant="u")
            assert len(server.requests) == before + 2
            cache = rag.stats().caches["embedding"]
            assert (cache["hits"], cache["misses"], cache["hit_rate"]) == (2, 2, 0.5)
            assert cache["requests"] >= 2
            assert "embedding" in rag.stats().policies
    assert embedder.snapshot()["entries"] == 0


@pytest.mark.parametrize("wrong", [{"max_bytes": 0}, {"ttl": 0}, {"ttl": float("inf")}, {"max_bytes": 1.5}])
async def test_invalid_limits_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        CachedEmbedder(FakeEmbedder(), **wrong)  # type: ignore[arg-type]


async def test_a_configuration_has_a_cache_by_default() -> None:
    for most, kind in ((32, CachedEmbedder), (0, OpenAIEmbedder)):
        config = Config(embedding_cache_mb=most, api_key=Secret("k"), base_url="http://127.0.0.1:1/v1")
        made = cached(make_embedder(config), config, MemoryStore())
        assert type(made) is kind
        assert (made.model, made.dimension) == ("text-embedding-3-small", 1536)
    for wrong in (
        {"embedding_cache_mb": -1},
        {"embedding_cache_ttl": 0},
        {"embedding_cache_key": Secret("k" * 16), "embedding_cache_mb": 0},
    ):
        with pytest.raises(ConfigurationError):
            Config(**wrong)

"""The options of a call are declared once, and are the same in all classes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import ragcore
from ragcore import RAG, Config, Document, InvalidInput, Retriever, blocking
from ragcore.client.options import AskOptions, RetrieveOptions, TimedSimilarityOptions
from ragcore.testing import FakeEmbedder, FakeGenerator, FakeStore, fake_rag

METHODS = {
    "ask": AskOptions,
    "stream": AskOptions,
    "retrieve": RetrieveOptions,
    "similarity": TimedSimilarityOptions,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("client", [ragcore.RAG, ragcore.TenantView, blocking.RAG, blocking.TenantView])
def test_help_shows_each_option(client: type, method: str) -> None:
    shown = inspect.signature(getattr(client, method)).parameters
    assert set(METHODS[method].__optional_keys__) <= set(shown)
    assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in shown.values())


@pytest.mark.anyio
@pytest.mark.parametrize("method", METHODS)
async def test_an_unknown_option_is_an_error_before_anything_is_sent(method: str) -> None:
    embedder = FakeEmbedder()
    async with fake_rag(embedder=embedder) as rag:
        options: Any = {"topk": 3}
        for call in (getattr(rag, method), getattr(rag.for_tenant("m"), method)):
            with pytest.raises(TypeError, match=r"unexpected keyword argument 'topk'"):
                tenant = {} if call.__self__ is not rag else {"tenant": "m"}
                made = call("q", **tenant, **options)
                await made
        if method in ("retrieve", "similarity"):
            wrong: Any = {"history": []} if method == "retrieve" else {"mode": "text"}
            with pytest.raises(TypeError, match="unexpected keyword argument"):
                await getattr(rag.retriever, method)("q", tenant="m", **wrong)
        assert rag.recent() == ()
    assert not embedder.calls


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_option_is_an_error_without_await_as_well(method: str) -> None:
    retriever = Retriever(store=FakeStore(), embedder=FakeEmbedder())
    with blocking.RAG(retriever=retriever, generator=FakeGenerator()) as rag:
        options: Any = {"topk": 3}
        with pytest.raises(TypeError, match=r"unexpected keyword argument 'topk'"):
            if method == "stream":
                with rag.stream("q", tenant="m", **options):
                    pass
            else:
                getattr(rag, method)("q", tenant="m", **options)


@pytest.mark.anyio
async def test_false_is_no_threshold_and_never_zero() -> None:
    embedder, store = FakeEmbedder(), FakeStore()
    strict = Retriever(store=store, embedder=embedder, score_threshold=0.99)
    open_to_all = Retriever(store=store, embedder=embedder, score_threshold=False)
    async with ragcore.RAG(retriever=strict, generator=FakeGenerator()) as rag, open_to_all:
        await rag.add([Document("d", "The deductible is $1,500.")], tenant="m")
        assert not (await rag.retrieve("zebra", tenant="m")).passages
        for found in (
            await rag.retrieve("zebra", tenant="m", score_threshold=False),
            await rag.for_tenant("m").retrieve("zebra", score_threshold=-1),
            await open_to_all.retrieve("zebra", tenant="m"),
        ):
            assert found.passages
            assert found.score_threshold is None
        zero = await rag.retrieve("zebra", tenant="m", score_threshold=0.0)
        assert zero.score_threshold == 0.0
        with pytest.raises(InvalidInput, match="score_threshold is True"):
            await rag.retrieve("zebra", tenant="m", score_threshold=True)
    assert ragcore.Config(score_threshold=False).score_threshold is False


def test_an_own_component_is_used_although_it_is_empty() -> None:
    """A store with `__len__` is false while it is empty."""

    class Sized(FakeStore):
        def __len__(self) -> int:
            return 0

    store = Sized()
    rag = RAG.from_config(Config(), embedder=FakeEmbedder(), store=store, generator=FakeGenerator())
    assert rag.retriever.store is store

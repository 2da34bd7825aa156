"""Chunks without a search, and a search by vector alone, through the client."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from ragcore import Document, InvalidInput, Passage, Query, Retriever, StoreError, Unsupported, blocking, meta
from ragcore.testing import FakeEmbedder, FakeGenerator, FakeStore, fake_rag
from ragcore.testing.fakes import embed_words

LONG = "\n\n".join(f"Paragraph {number}: " + "a long sentence about deductibles. " * 30 for number in range(40))


class OnlySearches:
    async def search(self, query: Query, /) -> Sequence[Passage]:
        return []


@pytest.mark.anyio
async def test_the_chunks_of_a_document_cover_its_text() -> None:
    async with fake_rag() as rag:
        await rag.add([Document("long", LONG), Document("other", "text")], tenant="m")
        await rag.add([Document("long", "another tenant's")], tenant="n")
        found = await rag.chunks("long", tenant="m")
        assert len(found) > 10
        assert all(passage.text == LONG[passage.start : passage.end] for passage in found)
        assert [passage.start for passage in found] == sorted(passage.start or 0 for passage in found)
        assert (found[0].start, found[-1].end) == (0, len(LONG.rstrip()))
        view = rag.for_tenant("m")
        assert await view.chunks("long") == found
        assert await view.chunks("missing") == []
        ids = [found[3].chunk_id, "missing", found[1].chunk_id]
        assert await view.chunks_by_id(ids) == [found[3], found[1]]
        vectors = (await view.chunks_by_id(ids, with_vectors=True)).vectors
        assert vectors is not None
        assert [vector.shape for vector in vectors if vector is not None] == [(64,), (64,)]
        assert [call.method for call in rag.recent()][-3:] == ["chunks", "chunks_by_id", "chunks_by_id"]


@pytest.mark.anyio
async def test_a_store_without_this_ability_and_invalid_ids_are_errors() -> None:
    async with fake_rag(store=OnlySearches()) as rag:
        with pytest.raises(Unsupported, match=r"OnlySearches .* document_chunks\(\)"):
            await rag.chunks("d", tenant="m")
    async with fake_rag() as rag:
        with pytest.raises(InvalidInput, match="NUL"):
            await rag.chunks("a\0b", tenant="m")
        with pytest.raises(InvalidInput, match="put it into a list"):
            await rag.chunks_by_id("d#0", tenant="m")


@pytest.mark.anyio
async def test_an_error_of_the_store_is_a_store_error() -> None:
    class Broken(FakeStore):
        async def document_chunks(self, document_id: str, /, *, tenant: str, with_vectors: bool = False) -> object:  # type: ignore[override]
            raise OSError("disk")

    async with fake_rag(store=Broken()) as rag:
        with pytest.raises(StoreError, match="OSError"):
            await rag.chunks("d", tenant="m")


@pytest.mark.anyio
async def test_a_search_by_vector_finds_what_a_search_by_the_question_finds() -> None:
    async with fake_rag() as rag:
        documents = [
            Document("plan", "Your deductible is $1,500 per year.", metadata={"year": 2024}),
            Document("old", "Your deductible was $900.", metadata={"year": 2020}),
            Document("letter", "Dear member, welcome."),
        ]
        await rag.add(documents, tenant="m")
        await rag.add([Document("secret", "Your deductible is secret.")], tenant="n")
        question = "What is my deductible?"
        vector = embed_words(question, 64)
        asked = await rag.retrieve(question, tenant="m", mode="vector", top_k=2)
        found = await rag.retrieve_by_vector(vector, tenant="m", top_k=2)
        assert [(p.chunk_id, p.score) for p in found.passages] == [(p.chunk_id, p.score) for p in asked.passages]
        assert (found.question, found.mode, found.usage.embedding_tokens) == ("", "vector", None)
        view = rag.for_tenant("m")
        filtered = await view.retrieve_by_vector(vector.tolist(), filter=meta("year").lt(2024))
        assert [passage.document_id for passage in filtered.passages] == ["old"]
        nothing = await view.retrieve_by_vector(vector, score_threshold=0.99)
        assert nothing.empty is not None
        assert nothing.empty.code == "below_threshold"
        diverse = await view.retrieve_by_vector(vector, top_k=2, diversity=1.0)
        assert [passage.document_id for passage in diverse.passages] == ["old", "letter"]


@pytest.mark.anyio
async def test_a_search_by_vector_needs_no_embedder() -> None:
    store = FakeStore()
    async with fake_rag(store=store) as rag:
        await rag.add([Document("plan", "Your deductible is $1,500.")], tenant="m")
        async with Retriever(store=store) as retriever:
            found = await retriever.retrieve_by_vector(embed_words("deductible", 64), tenant="m")
    assert [passage.document_id for passage in found.passages] == ["plan"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "vector", [[], [0.0] * 64, [math.nan] * 64, [1.0] * 63, [[1.0] * 64], ["a"] * 64, np.full(64, np.inf)], ids=str
)
async def test_a_vector_that_cannot_be_compared_is_invalid(vector: list[float]) -> None:
    async with fake_rag() as rag:
        with pytest.raises(InvalidInput, match="the vector"):
            await rag.retrieve_by_vector(vector, tenant="m")


@pytest.mark.anyio
async def test_options_of_a_question_are_unknown_to_a_search_by_vector() -> None:
    async with fake_rag() as rag:
        with pytest.raises(TypeError, match="mode"):
            await rag.retrieve_by_vector([1.0] * 64, tenant="m", mode="text")  # type: ignore[call-arg]


def test_the_blocking_client_has_the_same_methods() -> None:
    retriever = Retriever(embedder=FakeEmbedder(), store=FakeStore())
    with blocking.RAG(retriever=retriever, generator=FakeGenerator()) as rag:
        rag.add([Document("plan", "Your deductible is $1,500.")], tenant="m")
        (chunk,) = rag.chunks("plan", tenant="m", with_vectors=True)
        assert rag.chunks_by_id([chunk.chunk_id], tenant="m") == [chunk]
        found = rag.retrieve_by_vector(embed_words("deductible", 64), tenant="m")
        assert [passage.chunk_id for passage in found.passages] == ["plan#0"]

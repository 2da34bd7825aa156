"""The refinement of a search: the default mode, duplicates, diversity, neighbours and shared tenants, with stores that support only some of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from ragcore import (
    Chunk,
    Document,
    EmbeddedDocument,
    Found,
    InvalidInput,
    MemoryStore,
    Passage,
    Query,
    Retriever,
    Unsupported,
)
from ragcore.testing import FakeEmbedder
from ragcore.testing.fakes import embed_words

pytestmark = pytest.mark.anyio
DIMENSION = 64


class VectorsOnly:
    """A searcher that supports one mode and no filter, and records its queries."""

    def __init__(self, *passages: Passage) -> None:
        self.queries: list[Query] = []
        self.passages = passages or (Passage("c", "d", "words", score=0.5),)

    async def search(self, query: Query, /) -> Sequence[Passage]:
        self.queries.append(query)
        if query.mode != "vector" or query.filter is not None:
            raise Unsupported("vectors only")
        return self.passages[: query.top_k]


def document(id: str, *texts: str, title: str = "") -> EmbeddedDocument:
    whole, chunks = "\n\n".join(texts), []
    for number, text in enumerate(texts):
        start = whole.index(text)
        chunks.append(Chunk(id=f"{id}#{number}", text=text, start=start, end=start + len(text)))
    vectors = np.stack([embed_words(text, DIMENSION) for text in texts])
    return EmbeddedDocument(
        document=Document(id, whole, title=title), content_hash="h", model="fake", chunks=tuple(chunks), vectors=vectors
    )


@pytest.fixture
async def store(anyio_backend: str) -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as made:
        yield made


@pytest.fixture
async def retriever(store: MemoryStore) -> AsyncIterator[Retriever]:
    async with Retriever(store=store, embedder=FakeEmbedder(dimension=DIMENSION)) as made:
        yield made


async def test_the_default_mode_is_hybrid_and_falls_back_to_vectors_if_the_store_supports_nothing_else() -> None:
    searcher = VectorsOnly()
    async with Retriever(store=searcher, embedder=FakeEmbedder()) as retriever:
        first = await retriever.retrieve("q", tenant="m")
        second = await retriever.retrieve("q", tenant="m")
        assert (first.mode, second.mode, len(first.passages)) == ("vector", "vector", 1)
        assert [query.mode for query in searcher.queries] == ["hybrid", "vector", "vector"]
        with pytest.raises(Unsupported):
            await retriever.retrieve("q", tenant="m", mode="hybrid")
    async with Retriever(store=VectorsOnly(), embedder=FakeEmbedder(), mode="hybrid") as chosen:
        with pytest.raises(Unsupported):
            await chosen.retrieve("q", tenant="m")


async def test_a_searcher_that_can_do_less_is_never_asked_for_more() -> None:
    async with Retriever(store=VectorsOnly(), embedder=FakeEmbedder(), mode="vector") as retriever:
        with pytest.raises(Unsupported, match="shared"):
            await retriever.retrieve("q", tenant="m", shared=("plans",))
        with pytest.raises(Unsupported, match="neighbours"):
            await retriever.retrieve("q", tenant="m", neighbours=1)
        # The caller's own tenant need not be marked as shared.
        assert (await retriever.retrieve("q", tenant="m", shared=("m",))).passages


@pytest.mark.parametrize(
    "options",
    [
        {"shared": "plans"},
        {"shared": ("",)},
        {"shared": [f"t{n}" for n in range(17)]},
        {"diversity": 1.1},
        {"diversity": True},
        {"neighbours": 11},
        {"neighbours": -1},
        {"neighbours": 0.5},
    ],
)
async def test_invalid_options_are_refused(retriever: Retriever, options: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        await retriever.retrieve("q", tenant="m", **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        Retriever(store=retriever.store, **options)  # type: ignore[arg-type]


async def test_copies_leave_their_places_to_other_passages(store: MemoryStore, retriever: Retriever) -> None:
    copies = [document(f"copy{n}", f"{'The ' * (n % 2)}deductible is **$500**, each year.") for n in range(8)]
    others = [document(f"other{n}", f"deductible number{n}") for n in range(3)]
    await store.upsert([*copies, *others], tenant="m")
    found = await retriever.retrieve("What is the deductible each year $500?", tenant="m", top_k=3)
    ids = [passage.document_id for passage in found.passages]
    assert (len(ids), sum(one.startswith("copy") for one in ids), found.duplicates) == (3, 1, 7)
    whole = await retriever.retrieve("What is the deductible each year $500?", tenant="m", top_k=50)
    assert len(whole.passages) == 4


async def test_diverse_passages_differ_more_than_the_best_ones(store: MemoryStore, retriever: Retriever) -> None:
    alike = [document(f"alike{n}", f"surgery deductible plan coverage number{n}") for n in range(6)]
    await store.upsert([*alike, document("other", "surgery waiting period")], tenant="m")
    question = "surgery deductible plan coverage"
    best = await retriever.retrieve(question, tenant="m", top_k=3)
    diverse = await retriever.retrieve(question, tenant="m", top_k=3, diversity=0.6)
    assert all(passage.document_id.startswith("alike") for passage in best.passages)
    assert diverse.passages[0] == best.passages[0]
    assert "other" in [passage.document_id for passage in diverse.passages]
    assert (await retriever.retrieve(question, tenant="m", top_k=3, diversity=0.0)).passages == best.passages


async def test_neighbours_become_part_of_a_passage_and_overlapping_ones_become_one(
    store: MemoryStore, retriever: Retriever
) -> None:
    parts = [f"part{n} text" for n in range(9)]
    await store.upsert([document("long", *parts)], tenant="m")
    found = await retriever.retrieve("part4", tenant="m", top_k=1, neighbours=1)
    assert [passage.text for passage in found.passages] == ["part3 text\n\npart4 text\n\npart5 text"]
    passage = found.passages[0]
    assert (passage.chunk_id, passage.start, passage.end) == ("long#4", 36, 70)
    both = await retriever.retrieve("part4 part6", tenant="m", top_k=2, neighbours=1)
    assert [one.text for one in both.passages] == ["\n\n".join(parts[3:8])]
    assert (await retriever.retrieve("part0 text", tenant="m", top_k=1, neighbours=10)).passages[0].text == "\n\n".join(
        parts
    )


async def test_the_retrievers_own_values_apply_to_each_call(store: MemoryStore) -> None:
    await store.upsert([document("d", "terms of all plans")], tenant="plans")
    store.share("plans")
    embedder = FakeEmbedder(dimension=DIMENSION)
    async with Retriever(store=store, embedder=embedder, shared=["plans"], neighbours=1, diversity=0.3) as retriever:
        found = await retriever.retrieve("terms", tenant="m")
        assert [passage.shared for passage in found.passages] == ["plans"]
        assert (await retriever.retrieve("terms", tenant="m", shared=())).passages == ()
        report = await retriever.similarity("terms", tenant="plans")
        assert report.retrieval.passages[0].shared is None


async def test_vectors_of_a_searcher_are_optional() -> None:
    passages = [Passage(f"c{n}", "d", f"word{n} same same{n % 2}", score=1 - n / 10) for n in range(6)]
    async with Retriever(
        store=VectorsOnly(*passages), embedder=FakeEmbedder(), mode="vector", diversity=0.5
    ) as retriever:
        found = await retriever.retrieve("q", tenant="m", top_k=3)
    assert (len(found.passages), found.passages[0].chunk_id) == (3, "c0")


def test_found_keeps_its_facts() -> None:
    assert Found([], vectors=None).vectors is None

"""A grid measures every combination of settings over the same questions, and embeds each text once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ragcore import Document, InvalidInput, MemoryStore, Passage, Query
from ragcore.explore import Grid, Labelled, compare, grid
from ragcore.protocols import Searcher
from ragcore.testing import FakeEmbedder, FakeStore

pytestmark = pytest.mark.anyio

TOPICS = ["deductible", "ambulance", "specialist", "imaging", "dental", "glasses"]
FILLER = "Members of the plan read the booklet with care before every visit. "
DOCUMENTS = [
    Document(topic, f"{FILLER * 4}The {topic} costs {n} dollars. {FILLER * 4}") for n, topic in enumerate(TOPICS)
]
LABELS = [Labelled(f"How much is the {topic}?", [topic], tenant="m") for topic in TOPICS]


class Counting(FakeEmbedder):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def embed(self, texts: Sequence[str], /, *, kind: Any) -> Any:
        self.asked += [f"{kind}: {text}" for text in texts]
        return await super().embed(texts, kind=kind)


class Backwards:
    """A reranker that reverses the order."""

    def __init__(self, inner: Searcher) -> None:
        self.inner = inner

    async def search(self, query: Query, /) -> Sequence[Passage]:
        return list(await self.inner.search(query))[::-1]


async def test_every_combination_is_measured_and_the_first_is_the_baseline() -> None:
    async with Counting() as embedder:
        found = await grid(
            DOCUMENTS,
            LABELS,
            embedder=embedder,
            k=3,
            chunk_tokens=(50, 200),
            mode=("vector", "hybrid", "text"),
            top_k=(1, 3),
            rerank={"none": None, "backwards": Backwards},
        )
    rows = found.to_dicts()
    assert len(rows) == 2 * 3 * 2 * 2
    assert [rows[0][name] for name in ("chunk_tokens", "mode", "top_k", "rerank")] == [50, "vector", 1, "none"]
    assert (rows[0]["difference"], rows[0]["low"]) == (None, None)
    assert all(row["low"] <= row["difference"] <= row["high"] for row in rows[1:])
    assert sum(row["recommended"] for row in rows) == 1
    assert found.best.evaluation.mean("ndcg") == max(row["ndcg"] for row in rows)
    assert rows[0]["tokens"] < rows[2]["tokens"]
    assert found.settings[0].chunks > found.settings[-1].chunks
    spoilt = [row for row in rows if (row["rerank"], row["mode"], row["top_k"]) == ("backwards", "vector", 3)]
    assert max(row["ndcg"] for row in spoilt) < found.best.evaluation.mean("ndcg")
    # Each text is embedded once, although twelve settings search the same store.
    assert len(embedder.asked) == len(set(embedder.asked))
    assert sum(text.startswith("query") for text in embedder.asked) == len(LABELS)


async def test_options_of_the_retriever_and_of_the_search_are_axes() -> None:
    async with FakeEmbedder() as embedder:
        found = await grid(
            DOCUMENTS,
            LABELS,
            embedder=embedder,
            score_threshold=(None, 0.99),
            relative_threshold=(False, 1.0),
            top_k=[3],
        )
    rows = found.to_dicts()
    assert [(row["score_threshold"], row["relative_threshold"]) for row in rows] == [
        (None, False),
        (None, 1.0),
        (0.99, False),
        (0.99, 1.0),
    ]
    assert [row["nothing_found"] for row in rows] == [0.0, 0.0, 1.0, 1.0]
    assert rows[1]["tokens"] < rows[0]["tokens"]


async def test_settings_that_cannot_be_told_apart_are_named() -> None:
    async with FakeEmbedder() as embedder:
        found = await grid(DOCUMENTS, LABELS, embedder=embedder, top_k=(3, 4), score_threshold=(None, -0.99, 0.99))
    assert found.best.options == (("top_k", 3), ("score_threshold", None))  # the fewest tokens of equal settings
    assert any("3 of the 5 others are not clearly worse: 2, 4, 5" in note for note in found.notes)
    assert "only 6 questions" in repr(found)
    first, second = found.settings[:2]
    assert compare(first.evaluation, second.evaluation).difference == 0.0


async def test_the_store_may_be_given_and_is_closed() -> None:
    made: list[FakeStore] = []

    def factory() -> FakeStore:
        made.append(FakeStore())
        return made[-1]

    async with FakeEmbedder() as embedder:
        await grid(DOCUMENTS, LABELS, embedder=embedder, store=factory, chunk_tokens=(50, 200), mode=("vector", "text"))
        assert embedder.is_open
    assert [store.is_open for store in made] == [False, False]


async def test_documents_of_several_tenants_are_a_mapping() -> None:
    labels = [*LABELS, Labelled("How much is the dental?", ["dental"], tenant="n")]
    async with FakeEmbedder() as embedder:
        found = await grid({"m": DOCUMENTS, "n": DOCUMENTS[4:]}, labels, embedder=embedder)
        assert len(found.best.evaluation.questions) == 7
        with pytest.raises(InvalidInput, match="2 tenants: pass the documents as a mapping"):
            await grid(DOCUMENTS, labels, embedder=embedder)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"chunk_size": (1,)}, "no axis 'chunk_size': choose from .*chunk_tokens.*mode.*rerank"),
        ({"mode": "vector"}, "the axis mode must be a sequence"),
        ({"mode": ()}, "the axis mode must be a sequence"),
        ({"top_k": range(1, 600)}, "599 combinations"),
        ({"degrade": (True,)}, "no axis 'degrade'"),
        ({"mode": ("vectors",)}, "mode is 'vectors'"),
        ({"k": 0}, "k is 0"),
    ],
)
async def test_an_invalid_axis_is_refused(axes: dict[str, Any], message: str) -> None:
    async with FakeEmbedder() as embedder:
        with pytest.raises(InvalidInput, match=message):
            await grid(DOCUMENTS, LABELS, embedder=embedder, **axes)


async def test_labels_without_stored_documents_are_refused() -> None:
    async with FakeEmbedder() as embedder:
        with pytest.raises(InvalidInput, match="is in the store"):
            await grid(DOCUMENTS, [Labelled("q", ["missing"], tenant="m")], embedder=embedder)
        with pytest.raises(InvalidInput, match="pass at least one"):
            await grid(DOCUMENTS, [Labelled("q", [], tenant="m", unanswerable=True)], embedder=embedder)


@pytest.mark.blocking_allowed
async def test_a_grid_is_shown_saved_and_loaded(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    async with FakeEmbedder() as embedder:
        found = await grid(DOCUMENTS, LABELS, embedder=embedder, store=MemoryStore, mode=("vector", "text"))
    found.save(tmp_path / "grid.json")
    assert Grid.load(tmp_path / "grid.json") == found
    assert "◀ recommended" in found._repr_html_()
    page = found.to_html()
    assert "<svg" in page
    assert 'class="marked"' in page
    assert found.to_polars().height == len(found.to_pandas()) == 2
    assert found.plot().figure is not None

"""The relative threshold: a share of the best score of the same question."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import Config, ConfigurationError, Document, Found, Ingestor, InvalidInput, Passage, Query, Retriever
from ragcore.retrieval.relative import near_the_best
from ragcore.testing import Fail, FakeEmbedder, FakeStore

SCORES = st.lists(st.none() | st.floats(-1, 1, allow_subnormal=False), max_size=12)


def passages(scores: Sequence[float | None]) -> Found:
    return Found(
        [Passage(str(place), "d", f"text{place}", score=score) for place, score in enumerate(scores)], scan="exact"
    )


def test_passages_far_below_the_best_are_dropped() -> None:
    found = near_the_best(passages([0.8, 0.4, 0.39, None, 0.6]), 0.5)
    assert [passage.score for passage in found] == [0.8, 0.4, None, 0.6]
    assert found.scan == "exact"


def test_without_a_positive_score_all_stay() -> None:
    assert len(near_the_best(passages([-0.2, -0.5, None]), 0.9)) == 3


@given(scores=SCORES, share=st.none() | st.floats(0.01, 1))
def test_the_best_passage_and_the_order_stay(scores: list[float | None], share: float | None) -> None:
    found = passages(scores)
    kept = near_the_best(found, share)
    places = [int(passage.chunk_id) for passage in kept]
    assert places == sorted(places)
    best = max((score for score in scores if score is not None), default=None)
    assert (best in [passage.score for passage in kept]) or best is None
    assert [passage for passage in found if passage.score is None] == [p for p in kept if p.score is None]
    if share is None:
        assert kept == found


@given(scores=SCORES, lower=st.floats(0.01, 1), higher=st.floats(0.01, 1))
def test_a_higher_share_keeps_a_part_of_what_a_lower_one_keeps(
    scores: list[float | None], lower: float, higher: float
) -> None:
    lower, higher = sorted((lower, higher))
    few = {passage.chunk_id for passage in near_the_best(passages(scores), higher)}
    assert few <= {passage.chunk_id for passage in near_the_best(passages(scores), lower)}


class Fixed(FakeStore):
    """Finds the same passages for each vector. As after a fusion, they are not in the order of their scores."""

    async def search(self, query: Query, /) -> Sequence[Passage]:
        await super().search(query)
        scores = [None, None] if query.mode == "text" else [0.3, 0.9, 0.6]
        return passages(scores)


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["vector", "hybrid"])
async def test_the_call_overrides_the_retriever_and_the_result_says_which_share_applied(mode: str) -> None:
    embedder, store = FakeEmbedder(), Fixed()
    async with Retriever(embedder=embedder, store=store, relative_threshold=0.5, mode=mode) as retriever:  # type: ignore[arg-type]
        found = await retriever.retrieve("q", tenant="m")
        assert ([passage.score for passage in found.passages], found.relative_threshold) == ([0.9, 0.6], 0.5)
        strict = await retriever.retrieve("q", tenant="m", relative_threshold=0.9)
        assert ([passage.score for passage in strict.passages], strict.relative_threshold) == ([0.9], 0.9)
        for none in (False, 0):
            everything = await retriever.retrieve("q", tenant="m", relative_threshold=none)
            assert (len(everything.passages), everything.relative_threshold) == (3, None)
        by_text = await retriever.retrieve("q", tenant="m", mode="text")
        assert (len(by_text.passages), by_text.relative_threshold) == (2, None)
        embedder.faults.always(Fail(503))
        degraded = await retriever.retrieve("q", tenant="m")
        assert (len(degraded.passages), degraded.relative_threshold, degraded.mode) == (2, None, "text")


@pytest.mark.anyio
async def test_a_similarity_report_shows_all_passages() -> None:
    embedder, store = FakeEmbedder(), FakeStore()
    async with Retriever(embedder=embedder, store=store, relative_threshold=1.0) as retriever:
        documents = [Document("a", "The deductible."), Document("b", "A visit costs 40 dollars.")]
        await Ingestor(embedder=embedder, store=store).add(documents, tenant="m")
        assert len((await retriever.retrieve("deductible", tenant="m")).passages) == 1
        report = await retriever.similarity("deductible", tenant="m")
        assert (len(report.retrieval.passages), report.retrieval.relative_threshold) == (2, None)


@pytest.mark.parametrize("share", [True, -0.1, 1.1, float("nan"), "0.5"])
def test_a_share_that_is_not_between_0_and_1_is_refused(share: float) -> None:
    with pytest.raises(InvalidInput, match="relative_threshold is .*: it must be a share of the best score"):
        Retriever(store=FakeStore(), embedder=FakeEmbedder(), relative_threshold=share)
    with pytest.raises(ConfigurationError, match="relative_threshold is"):
        Config(relative_threshold=share)


def test_the_share_is_read_from_the_environment() -> None:
    environment = {
        "DATABASE_URL": "postgresql://u:p@localhost/d",
        "OPENAI_API_KEY": "none",
        "RAGCORE_RELATIVE_THRESHOLD": "0.85",
    }
    assert Config.from_env(environment).relative_threshold == 0.85

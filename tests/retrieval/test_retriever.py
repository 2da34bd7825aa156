"""The retriever: from a question to passages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import anyio
import numpy as np
import pytest

from ragcore import (
    ConfigurationError,
    Degradation,
    Diagnosis,
    Document,
    EmbeddingError,
    Filter,
    Found,
    Ingestor,
    InvalidInput,
    NotOpen,
    Overloaded,
    Passage,
    Query,
    Retriever,
    StoreError,
    Unsupported,
    Vectors,
    meta,
)
from ragcore.protocols import Scores, Vector
from ragcore.resilience import Bulkhead, Policy, deadline
from ragcore.testing import Fail, FakeEmbedder, FakeStore, Slow, VirtualLoop
from ragcore.types import Kind

pytestmark = pytest.mark.anyio

DOCUMENTS = [
    Document("plan", "Your deductible is 1500 dollars.", metadata={"year": 2024}),
    Document("visit", "A specialist visit costs 40 dollars.", metadata={"year": 2019}),
]


@pytest.fixture
async def retriever(anyio_backend: str) -> AsyncIterator[Retriever]:
    embedder, store = FakeEmbedder(), FakeStore()
    async with Retriever(embedder=embedder, store=store) as made:
        await Ingestor(embedder=embedder, store=store).add(DOCUMENTS, tenant="m")
        yield made


def embedder_of(retriever: Retriever) -> FakeEmbedder:
    assert isinstance(retriever.embedder, FakeEmbedder)
    return retriever.embedder


async def test_the_result_holds_the_options_that_were_used(retriever: Retriever) -> None:
    found = await retriever.retrieve("What is my deductible?", tenant="m", top_k=1, score_threshold=0.1)
    assert [passage.document_id for passage in found.passages] == ["plan"]
    assert (found.mode, found.top_k, found.score_threshold, found.score_threshold_from) == ("hybrid", 1, 0.1, "call")
    assert (found.question, found.query, found.empty, found.degraded) == ("What is my deductible?",) * 2 + (None, ())
    assert found.timings.embed is not None
    assert found.timings.search is not None
    assert found.timings.generate is None
    assert found.usage.embedding_tokens


async def test_a_calls_threshold_overrides_the_retrievers_and_minus_one_means_none(retriever: Retriever) -> None:
    strict = Retriever(embedder=retriever.embedder, store=retriever.store, score_threshold=0.99)
    async with strict:
        found = await strict.retrieve("deductible", tenant="m")
        assert (found.passages, found.score_threshold, found.score_threshold_from) == ((), 0.99, "retriever")
        found = await strict.retrieve("deductible", tenant="m", score_threshold=-1)
        assert (len(found.passages), found.score_threshold, found.score_threshold_from) == (2, None, None)


async def test_when_the_embedder_is_down_text_search_is_used_and_reported(retriever: Retriever) -> None:
    embedder_of(retriever).faults.always(Fail(503))
    found = await retriever.retrieve("What is my deductible?", tenant="m", score_threshold=0.9)
    assert [passage.document_id for passage in found.passages] == ["plan"]
    assert (found.mode, found.score_threshold) == ("text", None)
    assert [(d.stage, d.fallback) for d in found.degraded] == [("embed", "full text")]
    assert found.timings.embed is not None
    with pytest.raises(EmbeddingError):
        await retriever.retrieve("deductible", tenant="m", degrade=False)


async def test_an_error_is_never_the_same_as_empty(retriever: Retriever) -> None:
    assert isinstance(retriever.store, FakeStore)
    retriever.store.faults.always(Fail(500))
    with pytest.raises(StoreError) as caught:
        await retriever.retrieve("deductible", tenant="m")
    assert caught.value.stage == "search"


async def test_a_tenant_without_chunks_is_reported_as_the_reason(retriever: Retriever) -> None:
    empty = (await retriever.retrieve("deductible", tenant="nobody")).empty
    assert empty is not None
    assert (empty.code, empty.tenant_chunks, empty.store_chunks) == ("no_chunks", 0, 2)


async def test_scores_below_the_threshold_are_reported_with_the_best_score(retriever: Retriever) -> None:
    empty = (await retriever.retrieve("deductible", tenant="m", score_threshold=0.999)).empty
    assert empty is not None
    assert empty.code == "below_threshold"
    assert empty.best_score is not None
    assert f"{empty.best_score:.2f}" in empty.message


async def test_a_filter_that_matches_nothing_is_reported_as_the_reason(retriever: Retriever) -> None:
    for mode in ("vector", "text"):
        empty = (await retriever.retrieve("deductible", tenant="m", filter=meta("year").eq(1900), mode=mode)).empty
        assert empty is not None
        assert empty.code == "filtered_out"


async def test_a_question_that_has_nothing_to_do_with_the_documents_is_below_the_threshold() -> None:
    embedder, store = FakeEmbedder(dimension=256), FakeStore()
    async with Retriever(embedder=embedder, store=store, score_threshold=0.9) as retriever:
        documents = [Document(str(n), f"alpha{n} beta{n} gamma{n}") for n in range(150)]
        await Ingestor(embedder=embedder, store=store).add(documents, tenant="m")
        empty = (await retriever.retrieve("entirely unrelated wording", tenant="m")).empty
    assert empty is not None
    assert empty.code == "below_threshold"


async def test_explaining_an_unreached_threshold_needs_no_second_query(retriever: Retriever) -> None:
    """The search itself returns the best score."""
    store = retriever.store
    assert isinstance(store, FakeStore)

    async def asked(*_: object, **__: object) -> None:
        raise AssertionError("the store was asked again")

    store.count = store.scores = store.diagnose = asked  # type: ignore[assignment, method-assign]
    empty = (await retriever.retrieve("deductible", tenant="m", score_threshold=0.999)).empty
    assert empty is not None
    assert empty.code == "below_threshold"
    assert empty.best_score is not None


async def test_an_explanation_that_fails_or_hangs_does_not_fail_the_search(retriever: Retriever) -> None:
    store = retriever.store
    assert isinstance(store, FakeStore)

    async def fails(_: Query) -> Diagnosis:
        raise StoreError("down", dependency="database")

    async def hangs(_: Query) -> Diagnosis:
        await anyio.sleep_forever()
        raise AssertionError

    for diagnose, said in ((fails, "StoreError"), (hangs, "within")):
        store.diagnose = diagnose  # type: ignore[method-assign]
        with deadline(2.0):
            empty = (await retriever.retrieve("deductible", tenant="nobody")).empty
        assert empty is not None
        assert empty.code == "unknown"
        assert said in empty.message


async def test_documents_of_another_model_are_named() -> None:
    class Silent(FakeStore):
        async def search(self, query: Query, /) -> Found:
            return Found()

    embedder, store = FakeEmbedder(dimension=256), Silent()
    embedder.model = "old"
    async with Retriever(embedder=embedder, store=store) as retriever:
        await Ingestor(embedder=embedder, store=store).add([Document("d", "alpha")], tenant="m")
        embedder.model = "new"
        empty = (await retriever.retrieve("alpha", tenant="m")).empty
    assert empty is not None
    assert empty.code == "other_model"
    assert "old" in empty.message
    assert "new" in empty.message


async def test_a_searcher_that_gives_no_reason_leads_to_an_unknown_reason() -> None:
    class Nothing:
        async def search(self, query: Query, /) -> Sequence[Passage]:
            return []

    async with Retriever(embedder=FakeEmbedder(), store=Nothing()) as retriever:
        empty = (await retriever.retrieve("q", tenant="m")).empty
        assert empty is not None
        assert empty.code == "unknown"
        with pytest.raises(Unsupported):
            await retriever.similarity("q", tenant="m")


class Misbehaving(FakeEmbedder):
    """Returns the given vectors."""

    def __init__(self, result: Vectors) -> None:
        super().__init__(dimension=3)
        self.result = result

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vectors:  # type: ignore[override]
        return self.result


@pytest.mark.parametrize(
    "vectors",
    [
        [[1.0, 2.0]],
        [[1.0, float("nan"), 0.0]],
        [[0.0, 0.0, 0.0]],
        [],
        [[1.0, 0, 0]] * 2,
        [["a", "b", "c"]],
        np.full((1, 3), np.inf),
    ],
)
async def test_an_invalid_embedding_is_an_error_without_a_fallback(vectors: Vectors) -> None:
    async with Retriever(embedder=Misbehaving(vectors), store=FakeStore()) as retriever:
        with pytest.raises(EmbeddingError):
            await retriever.retrieve("q", tenant="m", degrade=False)


async def test_errors_of_a_users_own_component_become_ragcores() -> None:
    class Broken(FakeEmbedder):
        async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vectors:  # type: ignore[override]
            raise KeyError("the user's own")

    class BrokenStore:
        async def search(self, query: Query, /) -> Sequence[Passage]:
            raise KeyError("the user's own")

    async with Retriever(embedder=Broken(), store=BrokenStore()) as retriever:
        with pytest.raises(EmbeddingError) as caught:
            await retriever.retrieve("q", tenant="m", degrade=False)
        assert isinstance(caught.value.__cause__, KeyError)
        with pytest.raises(StoreError):
            await retriever.retrieve("q", tenant="m", mode="text")


async def test_a_searchers_results_are_checked() -> None:
    class Generous:
        async def search(self, query: Query, /) -> Sequence[Passage]:
            return [Passage(str(n), "d", f"t{n}", score=0.5) for n in range(50)]

    class NotANumber:
        async def search(self, query: Query, /) -> Sequence[Passage]:
            return [Passage("c", "d", "t", score=float("nan"))]

    async with Retriever(embedder=FakeEmbedder(), store=Generous()) as retriever:
        assert len((await retriever.retrieve("q", tenant="m")).passages) == 5
    async with Retriever(embedder=FakeEmbedder(), store=NotANumber()) as retriever:
        with pytest.raises(StoreError):
            await retriever.retrieve("q", tenant="m")


async def test_bad_input_is_invalid_before_anything_is_sent(retriever: Retriever) -> None:
    calls = len(embedder_of(retriever).calls)
    for arguments in (
        {"question": ""},
        {"question": "word " * 3_000},
        {"tenant": " "},
        {"top_k": 0},
        {"score_threshold": 2},
        {"mode": "fuzzy"},
        {"filter": {"key": "a"}},
    ):
        asked = {"question": "q", "tenant": "m", **arguments}
        with pytest.raises(InvalidInput):
            await retriever.retrieve(asked.pop("question"), **asked)  # type: ignore[arg-type]
    assert len(embedder_of(retriever).calls) == calls


async def test_text_only_needs_no_embedder() -> None:
    store = FakeStore()
    with pytest.raises(ConfigurationError):
        Retriever(store=store, mode="hybrid")
    async with Retriever(store=store) as retriever:
        assert retriever.mode == "text"
        assert (await retriever.retrieve("q", tenant="m")).passages == ()
        with pytest.raises(InvalidInput):
            await retriever.retrieve("q", tenant="m", mode="hybrid")


async def test_the_similarity_report_does_not_apply_the_threshold(retriever: Retriever) -> None:
    report = await retriever.similarity("What is my deductible?", tenant="m", score_threshold=0.99)
    assert (report.chunks, report.not_embedded, report.passing, report.exact, report.sampled) == (2, 0, 0, True, None)
    assert len(report.retrieval.passages) == 2
    assert report.retrieval.passages[0].text_score is not None
    assert report.verdict.startswith("No chunk passes 0.99; the best scores")
    assert set(report.quantiles) == {"min", "p05", "p25", "median", "p75", "p95", "max", "mean", "deviation"}
    assert sum(count for _, _, count in report.histogram) == 2
    assert "of 2 chunks pass" in (await retriever.similarity("deductible", tenant="m", score_threshold=-0.5)).verdict
    assert "No threshold" in (await retriever.similarity("deductible", tenant="m")).verdict
    assert "no documents" in (await retriever.similarity("deductible", tenant="nobody")).verdict


async def test_a_similarity_report_whose_documents_are_deleted_meanwhile_has_no_scores() -> None:
    class Emptied(FakeStore):
        async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
            await self.delete([document.id for document in DOCUMENTS], tenant=tenant)
            return await super().scores(vector, tenant=tenant, limit=limit)

    embedder, store = FakeEmbedder(), Emptied()
    async with Retriever(embedder=embedder, store=store) as retriever:
        await Ingestor(embedder=embedder, store=store).add(DOCUMENTS, tenant="m")
        report = await retriever.similarity("What is my deductible?", tenant="m")
    assert len(report.retrieval.passages) == 2
    assert (report.quantiles, report.histogram, report.passing) == ({}, (), 0)
    assert "no embedded chunks any more" in report.verdict


async def test_before_start_it_says_so() -> None:
    with pytest.raises(NotOpen):
        await Retriever(store=FakeStore(), mode="text").retrieve("q", tenant="m")


async def test_only_passages_that_match_the_filter_are_found(retriever: Retriever) -> None:
    found = await retriever.retrieve("costs", tenant="m", filter=Filter.documents(["visit"]))
    assert [passage.document_id for passage in found.passages] == ["visit"]


def waiting_for_the_embedder(callers: int, *, timeout: float) -> list[str]:
    """Return the outcomes of simultaneous retrievals with an embedder that has one place and takes 0.2 s."""
    outcomes: list[str] = []

    async def main() -> None:
        policy = Policy("embedding", bulkhead=Bulkhead(1, queue=256), retry=False)
        embedder = FakeEmbedder(policy=policy)
        retriever = Retriever(store=FakeStore(), embedder=embedder)
        async with retriever:
            await Ingestor(embedder=embedder, store=retriever.store).add([Document("d", "text")], tenant="t")  # type: ignore[arg-type]
            embedder.faults.always(Slow(0.2))

            async def one() -> None:
                try:
                    with deadline(timeout):
                        found = await retriever.retrieve("text", tenant="t")
                except Overloaded as error:
                    outcomes.append(str(error))
                else:
                    outcomes.append(found.degraded[0].reason if found.degraded else "found")

            async with anyio.create_task_group() as group:
                for _ in range(callers):
                    group.start_soon(one)

    anyio.run(main, backend_options={"loop_factory": VirtualLoop})
    return outcomes


def test_the_wait_for_a_place_does_not_count_as_an_embedder_that_does_not_answer() -> None:
    # The last retrieval waits for 0.6 s, which is more than 40 % of its time.
    assert waiting_for_the_embedder(4, timeout=1.4) == ["found"] * 4


def test_a_search_without_a_place_at_the_embedder_reports_an_overload() -> None:
    outcomes = waiting_for_the_embedder(20, timeout=1.4)
    assert 4 <= outcomes.count("found") <= 5
    assert all("is overloaded: " in outcome for outcome in outcomes if outcome != "found"), outcomes


async def test_a_store_that_can_not_search_by_text_does_not_hide_an_embedder_that_is_down() -> None:
    class VectorsOnly(FakeStore):
        async def search(self, query: Query, /) -> Sequence[Passage]:
            if query.mode == "text":
                raise Unsupported("this store searches by vector alone")
            return await super().search(query)

    embedder = FakeEmbedder()
    async with Retriever(embedder=embedder, store=VectorsOnly()) as retriever:
        embedder.faults.always(Fail(503))
        with pytest.raises(EmbeddingError) as caught:
            await retriever.retrieve("deductible", tenant="m")
        assert isinstance(caught.value.__cause__, Unsupported)
        embedder.faults.always(None)
        with pytest.raises(Unsupported):  # here the caller asked for this mode
            await retriever.retrieve("deductible", tenant="m", mode="text")


async def test_degradations_of_the_store_are_reported_for_each_kind_of_search() -> None:
    degradation = Degradation("search", "one shard is down", "the other shards", error="StoreError")

    class Sharded(FakeStore):
        async def search(self, query: Query, /) -> Found:
            return Found(await super().search(query), degraded=(degradation,))

    embedder, store = FakeEmbedder(), Sharded()
    async with Retriever(embedder=embedder, store=store) as retriever:
        await Ingestor(embedder=embedder, store=store).add(DOCUMENTS, tenant="m")
        vector = (await embedder.embed(["deductible"], kind="query"))[0]
        found = await retriever.retrieve("deductible", tenant="m")
        by_vector = await retriever.retrieve_by_vector(vector, tenant="m")
        report = await retriever.similarity("deductible", tenant="m")
    assert found.degraded == by_vector.degraded == report.retrieval.degraded == (degradation,)


async def test_shared_tenants_that_can_be_read_only_once_are_refused(retriever: Retriever) -> None:
    """A client plans a search more than once; the second time, an iterator would name no tenants."""
    for wrong in (iter(["plans"]), (name for name in ["plans"])):
        with pytest.raises(InvalidInput, match="a sequence of tenants"):
            await retriever.retrieve("deductible", tenant="m", shared=wrong)  # type: ignore[arg-type]

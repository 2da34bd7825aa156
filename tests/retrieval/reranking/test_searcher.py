"""The searcher whose passages a reranker sorts again."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import (
    RAG,
    CircuitOpen,
    Config,
    ConfigurationError,
    Document,
    Found,
    Ingestor,
    MemoryStore,
    NotOpen,
    Passage,
    Policies,
    Query,
    RagcoreError,
    Redaction,
    RerankedSearcher,
    Reranker,
    RerankingError,
    Retriever,
    Settings,
    meta,
)
from ragcore.compat.ability import offers
from ragcore.events import Event, subscribe
from ragcore.protocols import Diagnostician, Expiring, QuotaStore, Store, Watched
from ragcore.resilience import Bulkhead, CircuitBreaker, Policy, deadline
from ragcore.testing import (
    Fail,
    FakeEmbedder,
    FakeGenerator,
    FakeReranker,
    FakeStore,
    Hang,
    Slow,
    VirtualLoop,
    at_rest,
    cancel_everywhere,
    fake_rag,
)

pytestmark = pytest.mark.anyio

QUESTION = "Which word counts here?"
QUERY = Query(question=QUESTION, tenant="t", mode="text", top_k=2)


class Fixed:
    """A searcher with fixed passages, of which it returns `top_k`."""

    def __init__(self, *texts: str, **facts: Any) -> None:
        self.found = Found([Passage(text, text, text, score=1 - 0.1 * n) for n, text in enumerate(texts)], **facts)
        self.queries: list[Query] = []

    async def search(self, query: Query, /) -> Sequence[Passage]:
        self.queries.append(query)
        found = Found(self.found, best_score=self.found.best_score, scan=self.found.scan, degraded=self.found.degraded)
        del found[query.top_k :]
        return found


class Scripted:
    """A reranker that returns the given values."""

    model = "scripted"

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.texts: list[Sequence[str]] = []
        self.questions: list[str] = []

    async def rerank(self, question: str, texts: Sequence[str], /) -> Any:
        self.questions.append(question)
        self.texts.append(texts)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(texts) if callable(self.answer) else self.answer


def ids(passages: Sequence[Passage]) -> list[str]:
    return [passage.chunk_id for passage in passages]


async def test_the_most_relevant_passages_come_first_with_their_scores() -> None:
    searcher = Fixed("a", "b", "c", "d", best_score=0.9, scan="exact")
    async with RerankedSearcher(searcher, Scripted([0.1, 0.3, -2.0, 7.5])) as reranked:
        found = await reranked.search(QUERY)
    assert ids(found) == ["d", "b"]
    assert [passage.rerank_score for passage in found] == [7.5, 0.3]
    assert [passage.score for passage in found] == pytest.approx([0.7, 0.9])
    assert isinstance(found, Found)
    assert (found.best_score, found.scan, found.degraded) == (0.9, "exact", ())
    assert isinstance(Scripted([]), Reranker)


async def test_the_searcher_is_asked_for_the_candidates_and_keeps_every_other_option() -> None:
    searcher = Fixed("a")
    condition = meta("year").eq(2024)
    asked = Query(question="q", tenant="t", mode="hybrid", top_k=3, filter=condition, score_threshold=0.4, model="m")
    async with RerankedSearcher(searcher, Scripted([]), candidates=20) as reranked:
        await reranked.search(asked)
        await reranked.search(Query(question="q", tenant="t", mode="text", top_k=30))
        await reranked.search(Query(question="q", tenant="t", mode="text", top_k=3, rerank=False))
    first, second, third = searcher.queries
    assert (first.top_k, second.top_k, third.top_k) == (20, 30, 3)
    assert (first.filter, first.score_threshold, first.mode, first.tenant, first.model) == (
        condition, 0.4, "hybrid", "t", "m",
    )  # fmt: skip


@pytest.mark.parametrize("texts", [(), ("alone",)])
async def test_fewer_than_two_passages_are_not_sent(texts: tuple[str, ...]) -> None:
    reranker = Scripted(RuntimeError())
    async with RerankedSearcher(Fixed(*texts), reranker) as reranked:
        assert ids(await reranked.search(QUERY)) == list(texts)
    assert reranker.texts == []


@given(scores=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), top_k=st.integers(1, 40))
def test_any_scores_give_the_stable_order_of_the_relevance(scores: list[float], top_k: int) -> None:
    async def main() -> None:
        texts = [f"{number}" for number in range(len(scores))]
        async with RerankedSearcher(Fixed(*texts), Scripted(np.array(scores)), candidates=50) as reranked:
            found = await reranked.search(Query(question="q", tenant="t", mode="text", top_k=top_k))
        expected = sorted(range(len(scores)), key=lambda n: (-scores[n], n))[:top_k]
        assert ids(found) == [texts[number] for number in expected]

    anyio.run(main)


RUBBISH: list[tuple[object, str]] = [
    ([1.0], r"shape \(1,\) for 3 texts"),
    ([1.0] * 4, r"shape \(4,\)"),
    ([], r"shape \(0,\)"),
    ([[1.0], [2.0], [3.0]], r"shape \(3, 1\)"),
    ([1.0, math.nan, 2.0], "not a finite number"),
    ([1.0, math.inf, 2.0], "not a finite number"),
    ([1.0, None, 2.0], "not a finite number"),
    (["good", "bad", "ugly"], "list, not numbers"),
    (None, r"shape \(\)"),
    ({"scores": [1, 2, 3]}, "dict, not numbers"),
    (object(), "object, not numbers"),
    (RuntimeError("boom"), "raised RuntimeError"),
    (OSError("boom"), "raised OSError"),
    (TimeoutError(), "did not answer in time"),
]


@pytest.mark.parametrize(("answer", "said"), RUBBISH)
async def test_a_reranker_that_returns_rubbish_is_skipped_and_degraded_says_so(answer: object, said: str) -> None:
    reranker = Scripted(answer)
    async with RerankedSearcher(Fixed("a", "b", "c", best_score=0.5), reranker) as reranked:
        found = await reranked.search(QUERY)
        with pytest.raises(RerankingError, match=said) as caught:
            await reranked.search(Query(question="q", tenant="t", mode="text", top_k=2, degrade=False))
    assert caught.value.stage == "rerank"
    assert isinstance(found, Found)
    assert ids(found) == ["a", "b"]
    assert [passage.rerank_score for passage in found] == [None, None]
    assert found.best_score == 0.5
    (degradation,) = found.degraded
    assert (degradation.stage, degradation.fallback) == ("rerank", "order of the search")
    assert "scripted" in degradation.reason
    assert len(reranker.texts) == 2


@pytest.mark.parametrize("error", [ConfigurationError("no"), NotOpen("no")])
async def test_mistakes_of_the_program_are_not_hidden(error: RagcoreError) -> None:
    async with RerankedSearcher(Fixed("a", "b"), Scripted(error)) as reranked:
        with pytest.raises(type(error)):
            await reranked.search(QUERY)


async def test_a_title_is_sent_with_the_text_unless_the_text_begins_with_it() -> None:
    searcher = Fixed()
    searcher.found[:] = [
        Passage("1", "1", "It is two years.", title="Bikes"),
        Passage("2", "2", "# Bikes\nFast.", title="Bikes"),
    ]
    reranker = Scripted([1, 2])
    async with RerankedSearcher(searcher, reranker) as reranked:
        await reranked.search(QUERY)
    assert reranker.texts == [["Bikes\n\nIt is two years.", "# Bikes\nFast."]]


async def test_question_and_passages_are_redacted_with_one_placeholder_for_each_value() -> None:
    searcher = Fixed(*(f"Member {n}: ann{n}@example.com" for n in range(20)))
    reranker = Scripted(lambda texts: range(len(texts)))
    asked = Query(
        question="Who is ann3@example.com?", tenant="t", mode="text", top_k=2, redact=Redaction(reversible=True)
    )
    async with RerankedSearcher(searcher, reranker) as reranked:
        found = await reranked.search(asked)
    ((question, texts),) = zip(reranker.questions, reranker.texts, strict=True)
    assert question == "Who is [EMAIL 1]?"
    assert (texts[3], len(texts)) == ("Member 3: [EMAIL 1]", 20)
    assert not any("@" in text for text in (question, *texts))
    assert "@" in found[0].text


async def test_a_redaction_function_that_fails_sends_nothing() -> None:
    def redact(text: str) -> str:
        raise ValueError(text)

    reranker = Scripted([1, 2])
    async with RerankedSearcher(Fixed("a", "b"), reranker) as reranked:
        with pytest.raises(ConfigurationError, match="redact raised ValueError"):
            await reranked.search(Query(question="q", tenant="t", mode="text", top_k=2, redact=redact))
    assert reranker.texts == []


def in_virtual_time(main: Callable[[], Any]) -> Any:
    return anyio.run(main, backend="asyncio", backend_options={"loop_factory": VirtualLoop})


def test_a_reranker_that_hangs_gets_its_share_of_the_time() -> None:
    async def main() -> None:
        reranker = FakeReranker()
        reranker.faults.always(Hang())
        async with RerankedSearcher(Fixed("a", "b"), reranker) as reranked:
            for timeout, share in ((10, 3), (100, 10)):
                with deadline(timeout):
                    began = anyio.current_time()
                    found = await reranked.search(QUERY)
                    assert anyio.current_time() - began == pytest.approx(share, abs=0.01)
                assert isinstance(found, Found)
                assert f"did not answer within {share:.1f} s" in found.degraded[0].reason
            began = anyio.current_time()
            await reranked.search(QUERY)  # without a deadline
            assert anyio.current_time() - began == pytest.approx(10, abs=0.01)
        at_rest(reranker.policy)()

    in_virtual_time(main)


def test_after_some_failures_the_breaker_skips_the_reranker_at_once_and_later_uses_it_again() -> None:
    async def main() -> None:
        breaker = CircuitBreaker(minimum_throughput=3)
        reranker = FakeReranker(policy=Policy("fake reranker", retry=False, breaker=breaker))
        reranker.faults.always(Hang())
        async with RerankedSearcher(Fixed("a", "b word"), reranker) as reranked:
            assert reranked.rerank_policy is reranker.policy
            for _ in range(3):
                with deadline(10):
                    await reranked.search(QUERY)
            assert breaker.snapshot()["state"] == "open"
            began = anyio.current_time()
            with deadline(10):
                found = await reranked.search(QUERY)
            assert anyio.current_time() == began
            assert isinstance(found, Found)
            assert "circuit" in found.degraded[0].reason
            with pytest.raises(CircuitOpen):
                await reranked.search(Query(question="q", tenant="t", mode="text", top_k=2, degrade=False))
            reranker.faults.always(None)
            await anyio.sleep(120)
            again = await reranked.search(QUERY)
            assert isinstance(again, Found)
            assert (again.degraded, ids(again)) == ((), ["b word", "a"])

    in_virtual_time(main)


def test_a_users_own_reranker_gets_a_policy_with_a_breaker() -> None:
    async def main() -> None:
        reranker = Scripted(RuntimeError())
        async with RerankedSearcher(Fixed("a", "b"), reranker) as reranked:
            for _ in range(30):
                await reranked.search(QUERY)
        assert 5 <= len(reranker.texts) < 30
        assert reranked.rerank_policy.snapshot()["breaker"]["state"] == "open"

    in_virtual_time(main)
    own = FakeReranker()
    with pytest.raises(ConfigurationError, match="has its own policy"):
        RerankedSearcher(Fixed(), own, policy=Policy())


def test_an_overloaded_reranker_is_skipped_too() -> None:
    async def main() -> None:
        reranker = FakeReranker(policy=Policy("fake reranker", retry=False, bulkhead=Bulkhead(1, queue=1)))
        reranker.faults.always(Slow(2))
        results: list[Found] = []
        async with RerankedSearcher(Fixed("a", "b word"), reranker) as reranked:

            async def one() -> None:
                with deadline(30):
                    found = await reranked.search(QUERY)
                assert isinstance(found, Found)
                results.append(found)

            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(one)
        assert [bool(found.degraded) for found in results] == [True, True, False, False]

    in_virtual_time(main)


async def test_cancelled_at_any_await_it_gives_everything_back() -> None:
    reranker = FakeReranker()

    async def call() -> None:
        async with RerankedSearcher(Fixed("a", "b"), reranker) as reranked:
            await reranked.search(QUERY)

    assert await cancel_everywhere(call, check=at_rest(reranker.policy)) > 2


@pytest.mark.parametrize("candidates", [0, 1, 1_001, 2.5, "50", None])
def test_the_number_of_candidates_is_checked(candidates: Any) -> None:
    with pytest.raises(ConfigurationError, match="candidates is"):
        RerankedSearcher(Fixed(), Scripted([]), candidates=candidates)


async def test_parts_are_started_and_closed_unless_they_have_another_owner() -> None:
    store, reranker = FakeStore(), FakeReranker()
    with pytest.raises(NotOpen):
        await RerankedSearcher(store, reranker).search(QUERY)
    async with RerankedSearcher(store, reranker):
        assert (store.is_open, reranker.is_open) == (True, True)
    assert (store.is_open, reranker.is_open) == (False, False)
    async with reranker:
        async with RerankedSearcher(store, reranker):
            pass
        assert reranker.is_open


# Tests with a client.


@pytest.fixture
async def client(anyio_backend: str) -> AsyncIterator[tuple[RAG, FakeReranker]]:
    reranker = FakeReranker()
    async with fake_rag(reranker=reranker) as rag:
        await rag.add(
            [Document(f"d{n}", f"Number {n} says that a battery lasts {n} years.", metadata={"n": n}) for n in range(9)]
            + [Document("best", "The warranty of the battery lasts eleven years, says the shop.")],
            tenant="t",
        )
        yield rag, reranker


ASKED = "How long does the warranty of the battery last in years?"


async def test_a_client_answers_from_the_reranked_passages(client: tuple[RAG, FakeReranker]) -> None:
    rag, reranker = client
    answer = await rag.ask(ASKED, tenant="t", top_k=2)
    assert len(answer.retrieval.passages) == 2
    assert answer.retrieval.passages[0].document_id == "best"
    assert answer.degraded == ()
    assert answer.retrieval.passages[0].rerank_score is not None
    assert answer.to_dict()["retrieval"]["passages"][0]["rerank_score"] == answer.retrieval.passages[0].rerank_score
    ((_, texts),) = reranker.calls
    assert len(texts) == 10


async def test_the_time_of_the_stage_is_not_part_of_the_search(client: tuple[RAG, FakeReranker]) -> None:
    rag, reranker = client
    reranker.faults.next(Slow(0.2))
    retrieval = await rag.retrieve(ASKED, tenant="t", timeout=30)
    assert retrieval.timings.rerank is not None
    assert retrieval.timings.search is not None
    assert retrieval.timings.rerank >= 0.2 > retrieval.timings.search


async def test_a_client_whose_reranker_fails_says_so_or_raises(client: tuple[RAG, FakeReranker]) -> None:
    rag, reranker = client
    seen: list[Event] = []
    end = subscribe(seen.append)
    reranker.faults.always(Fail(500))
    answer = await rag.ask(ASKED, tenant="t", top_k=3)
    end()
    assert [(part.stage, part.fallback) for part in answer.degraded] == [("rerank", "order of the search")]
    assert answer.found
    assert len(answer.retrieval.passages) == 3
    assert [event.source for event in seen if event.name == "retriever.degraded"] == ["rerank"]
    assert rag.recent()[-1].outcome == "degraded"
    with pytest.raises(RerankingError, match="500"):
        await rag.ask(ASKED, tenant="t", degrade=False)
    assert rag.recent()[-1].stage == "rerank"


async def test_rerank_false_asks_for_the_order_of_the_search(client: tuple[RAG, FakeReranker]) -> None:
    rag, reranker = client
    plain = await rag.retrieve(ASKED, tenant="t", rerank=False)
    assert reranker.calls == []
    assert all(passage.rerank_score is None for passage in plain.passages)
    assert (plain.timings.rerank, len(plain.passages)) == (None, 5)


async def test_every_ability_of_the_store_still_works(client: tuple[RAG, FakeReranker]) -> None:
    rag, reranker = client
    assert len(await rag.documents(tenant="t")) == 10
    report = await rag.similarity(ASKED, tenant="t")
    assert (report.chunks, reranker.calls) == (10, [])
    assert (await rag.similarity(ASKED, tenant="t", filter=meta("n").ge(0))).passing == 9
    health = await rag.health()
    assert health.status == "healthy"
    assert health.details["rag_service"]["dependencies"]["reranking"]["breaker"] == "closed"
    described = await rag.describe()
    assert described["store"]["reranker"] == "fake"
    assert described["counts"]["chunks"] == 10
    assert "reranking" in rag.stats().policies
    empty = await rag.retrieve(ASKED, tenant="nobody")
    assert empty.empty is not None
    assert empty.empty.code == "no_chunks"
    below = await rag.retrieve(ASKED, tenant="t", score_threshold=0.999)
    assert below.empty is not None
    assert below.empty.code == "below_threshold"
    assert await rag.delete(["d1"], tenant="t") == 1
    assert (await rag.delete_tenant(tenant="t")).documents == 9


def test_abilities_are_those_of_the_wrapped_store() -> None:
    from ragcore import PgVectorStore

    reranked = RerankedSearcher(PgVectorStore("postgresql://nobody@localhost/none"), Scripted([]))
    for ability in (Store, Expiring, QuotaStore, Watched, Diagnostician):
        assert offers(reranked, ability)
    assert not offers(RerankedSearcher(Fixed(), Scripted([])), Store)
    with pytest.raises(AttributeError):
        reranked._pool  # noqa: B018


async def test_settings_redact_applies_to_the_reranker() -> None:
    reranker = FakeReranker()
    async with fake_rag(reranker=reranker, settings=Settings(watchdog=False, redact=Redaction())) as rag:
        await rag.add([Document(n, f"Write to {n}@example.com about the plan.") for n in ("ann", "bob")], tenant="t")
        await rag.retrieve("Which plan has ann@example.com?", tenant="t", mode="text")
    ((question, texts),) = reranker.calls
    assert question == "Which plan has [EMAIL]?"
    assert not any("@" in text for text in texts)


async def test_two_rerankers_may_follow_each_other() -> None:
    cheap, good = Scripted(lambda texts: range(len(texts))), Scripted(lambda texts: range(len(texts)))
    inner = RerankedSearcher(Fixed("a", "b", "c", "d"), cheap, candidates=4)
    async with RerankedSearcher(inner, good, candidates=3) as reranked:
        found = await reranked.search(QUERY)
    assert good.texts == [["d", "c", "b"]]
    assert ids(found) == ["b", "c"]


async def test_a_configuration_may_name_a_reranker() -> None:
    rag = RAG.from_config(
        Config(reranker="tei", rerank_base_url="http://127.0.0.1:9", rerank_candidates=7, embedding_cache_mb=0),
        store=MemoryStore(),
        embedder=FakeEmbedder(),
        generator=FakeGenerator(),
    )
    store = rag.retriever.store
    assert isinstance(store, RerankedSearcher)
    assert (store.candidates, store.reranker.model) == (7, "tei")


async def test_the_policy_of_the_configuration_is_for_a_given_reranker_without_its_own() -> None:
    policies = Policies(reranking=Policy("mine"))
    own = FakeReranker()
    for reranker, expected in ((Scripted([]), policies.reranking), (own, own.policy)):
        rag = RAG.from_config(
            Config(),
            store=MemoryStore(),
            embedder=FakeEmbedder(),
            generator=FakeGenerator(),
            reranker=reranker,
            policies=policies,
        )
        store = rag.retriever.store
        assert isinstance(store, RerankedSearcher)
        assert store.rerank_policy is expected


async def test_a_retriever_needs_no_client() -> None:
    embedder, store = FakeEmbedder(), FakeStore()
    reranked = RerankedSearcher(store, FakeReranker())
    async with Retriever(embedder=embedder, store=reranked) as retriever:
        await Ingestor(embedder=embedder, store=store).add(
            [Document("a", "A long warranty."), Document("b", "A battery.")], tenant="t"
        )
        found = await retriever.retrieve("Which warranty?", tenant="t", mode="hybrid")
    assert found.passages[0].document_id == "a"

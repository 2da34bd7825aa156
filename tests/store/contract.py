"""The contract of every store. Each suite runs for `MemoryStore` and, with a real database, for `PgVectorStore`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import anyio
import numpy as np
import pytest

from ragcore import (
    ConfigurationError,
    Document,
    EmbeddedDocument,
    Filter,
    Found,
    InvalidInput,
    Passage,
    Query,
    Store,
    Vector,
    meta,
)
from ragcore.protocols import EmbedTextRecorder, Expiring
from ragcore.testing.fakes import embed_words
from ragcore.types import Chunk, Counts, Mode

DIMENSION = 64
MODES: tuple[Mode, ...] = ("vector", "text", "hybrid")
# Documents, and the seconds after which they expire.
EXPIRIES = (("past", -1.0), ("soon", 2.0), ("later", 3_600.0))


def embedded(
    id: str, *texts: str, metadata: dict[str, object] | None = None, title: str = "", hash: str = "h"
) -> EmbeddedDocument:
    """Return a document with a chunk for each text."""
    chunks, start = [], 0
    for number, text in enumerate(texts):
        chunks.append(
            Chunk(id=f"{id}#{number}", text=text, start=start, end=start + len(text), metadata={"part": number})
        )
        start += len(text) + 1
    vectors = np.stack([embed_words(text, DIMENSION) for text in texts])
    document = Document(id, " ".join(texts), title=title, source=f"{id}.md", metadata=metadata or {})
    return EmbeddedDocument(document=document, content_hash=hash, model="fake", chunks=tuple(chunks), vectors=vectors)


def query(
    question: str,
    *,
    tenant: str = "a",
    mode: Mode = "vector",
    top_k: int = 5,
    filter: Filter | None = None,
    threshold: float | None = None,
) -> Query:
    vector: Vector | None = None if mode == "text" else embed_words(question, DIMENSION)
    return Query(
        question=question,
        tenant=tenant,
        mode=mode,
        top_k=top_k,
        vector=vector,
        filter=filter,
        score_threshold=threshold,
    )


async def ids(store: Store, asked: Query) -> list[str]:
    return [passage.chunk_id for passage in await store.search(asked)]


PLAN = embedded(
    "plan",
    "the deductible is 1500",
    "a specialist visit copay is 40",
    "the ambulance costs 250",
    metadata={"year": 2024, "kind": "plan"},
    title="Gold plan",
)
OLD = embedded(
    "old", "the deductible was 900", "a dental cleaning is free", metadata={"year": 2019, "kind": "plan", "draft": True}
)
LETTER = embedded("letter", "thank you for your letter about glasses", metadata={"kind": "letter"})


def expiring(one: EmbeddedDocument, expires_at: datetime, id: str) -> EmbeddedDocument:
    """Return the same document with another id and an expiry."""
    chunks = tuple(replace(chunk, id=f"{id}#{number}") for number, chunk in enumerate(one.chunks))
    return replace(one, document=replace(one.document, id=id, expires_at=expires_at), chunks=chunks)


class StoreContract:
    """Tests that a subclass runs with its own `store` fixture: an open, empty store."""

    pytestmark = pytest.mark.anyio

    async def test_the_nearest_passage_comes_first_with_its_position_and_scores(self, store: Store) -> None:
        await store.upsert([PLAN, OLD], tenant="a")
        passages = await store.search(query("the deductible is 1500", top_k=2))
        assert [passage.chunk_id for passage in passages] == ["plan#0", "old#0"]
        best = passages[0]
        assert best.score == pytest.approx(1.0, abs=1e-5)
        assert best.text_score is None
        expected = Passage(
            "plan#0",
            "plan",
            "the deductible is 1500",
            title="Gold plan",
            source="plan.md",
            start=0,
            end=22,
            metadata={"year": 2024, "kind": "plan", "part": 0},
            score=best.score,
        )
        assert best == expected
        assert best.metadata == expected.metadata

    async def test_text_search_joins_words_by_or(self, store: Store) -> None:
        await store.upsert([PLAN, OLD, LETTER], tenant="a")
        passages = await store.search(query("ambulance or submarine", mode="text"))
        assert [passage.chunk_id for passage in passages] == ["plan#2"]
        assert passages[0].score is None
        assert passages[0].text_score is not None
        assert await ids(store, query("of the and", mode="text")) == []
        assert await ids(store, query("it's a 'quoted' \\ word's | & ! ( ) : * <-> glasses", mode="text")) == [
            "letter#0"
        ]

    async def test_titles_are_searched_too(self, store: Store) -> None:
        await store.upsert([PLAN, LETTER], tenant="a")
        assert {chunk.partition("#")[0] for chunk in await ids(store, query("gold", mode="text"))} == {"plan"}

    async def test_hybrid_fuses_both_rankings(self, store: Store) -> None:
        await store.upsert([PLAN, OLD, LETTER], tenant="a")
        passages = await store.search(query("specialist copay", mode="hybrid", top_k=3))
        assert passages[0].chunk_id == "plan#1"
        assert passages[0].score is not None
        assert passages[0].text_score is not None

    async def test_in_hybrid_a_passage_found_only_by_text_has_no_score_and_needs_no_threshold(
        self, store: Store
    ) -> None:
        await store.upsert([PLAN, OLD, LETTER], tenant="a")
        passages = await store.search(query("ambulance", mode="hybrid", threshold=0.999))
        assert [passage.chunk_id for passage in passages] == ["plan#2"]
        assert passages[0].score is None

    async def test_the_threshold_is_inclusive_and_applies_to_vectors(self, store: Store) -> None:
        await store.upsert([PLAN, OLD], tenant="a")
        scored = await store.search(query("deductible"))
        edge = scored[1].score
        assert edge is not None
        assert len(await store.search(query("deductible", threshold=edge - 1e-6))) == 2
        assert len(await store.search(query("deductible", threshold=edge + 1e-6))) == 1

    @pytest.mark.parametrize("mode", ["vector", "hybrid"])
    @pytest.mark.parametrize("condition", [None, meta("year").lt(2024)], ids=["all", "filtered"])
    async def test_a_search_below_its_threshold_returns_the_best_score(
        self, store: Store, mode: Mode, condition: Filter | None
    ) -> None:
        await store.upsert([PLAN, OLD], tenant="a")
        best = await store.search(query("deductible submarine", filter=condition))
        asked = query("deductible submarine", mode=mode, threshold=0.9999, filter=condition)
        found = await store.search(replace(asked, question="submarine"))
        assert isinstance(found, Found)
        assert list(found) == []
        assert found.best_score == pytest.approx(best[0].score, abs=1e-6)
        assert found.scan in ("exact", "index", "completed")

    @pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
    async def test_tenants_never_see_each_other(self, store: Store, mode: Mode) -> None:
        await store.upsert([PLAN], tenant="a")
        await store.upsert([embedded("plan", "the deductible is 7777", hash="other")], tenant="b")
        assert all("7777" not in passage.text for passage in await store.search(query("deductible 7777", mode=mode)))
        assert [passage.text for passage in await store.search(query("deductible 1500", tenant="b", mode=mode))] == [
            "the deductible is 7777"
        ]
        assert await store.search(query("deductible", tenant="nobody", mode=mode)) == []
        assert await store.hashes(None, tenant="b") == {"plan": "other"}
        assert await store.delete(["plan"], tenant="nobody") == 0
        assert (await store.count(tenant="a")).chunks == 3
        scores = await store.scores(embed_words("deductible", DIMENSION), tenant="b")
        assert list(scores.chunk_ids) == ["plan#0"]

    async def test_a_document_that_shrank_leaves_no_stale_chunks(self, store: Store) -> None:
        await store.upsert([PLAN], tenant="a")
        await store.upsert([embedded("plan", "all new text", hash="new")], tenant="a")
        assert (await store.count(tenant="a")).chunks == 1
        assert await ids(store, query("ambulance", mode="text")) == []
        assert await store.hashes(["plan", "unknown"], tenant="a") == {"plan": "new"}

    async def test_upserting_again_changes_nothing(self, store: Store) -> None:
        for _ in range(2):
            await store.upsert([PLAN, OLD], tenant="a")
        counts = await store.count(tenant="a")
        assert (counts.documents, counts.chunks, counts.not_embedded) == (2, 5, 0)

    async def test_deleting(self, store: Store) -> None:
        await store.upsert([PLAN, OLD], tenant="a")
        assert await store.delete(["plan", "unknown"], tenant="a") == 1
        assert (await store.count(tenant="a")).chunks == 2
        assert await store.hashes(None, tenant="a") == {"old": "h"}

    async def test_scores_are_exact_and_best_first(self, store: Store) -> None:
        await store.upsert([PLAN, OLD], tenant="a")
        vector = embed_words("the deductible is 1500", DIMENSION)
        scores = await store.scores(vector, tenant="a")
        assert len(scores.scores) == len(scores.chunk_ids) == len(scores.document_ids) == 5
        assert list(scores.scores) == sorted(scores.scores, reverse=True)
        assert (scores.chunk_ids[0], scores.document_ids[0]) == ("plan#0", "plan")
        assert len((await store.scores(vector, tenant="a", limit=2)).scores) == 2
        assert len((await store.scores(vector, tenant="nobody")).scores) == 0

    FILTERS = (
        meta("year").ge(2024),
        meta("year").lt(2024.5),
        meta("year").eq(2024.0),
        meta("year").eq("2024"),
        meta("year").ne(2019),
        meta("kind").in_(["letter", 7]),
        meta("kind").gt("letter"),
        meta("draft").exists(),
        ~meta("draft").eq(True),
        meta("draft").eq(1),
        meta("part").le(0) & (meta("year").exists() | meta("kind").eq("letter")),
        Filter.documents(["plan", "letter"]) & ~Filter.documents(["plan"]),
        meta("kind").in_([]),
        Filter.from_dict({"and": []}),
        Filter.from_dict({"or": []}),
    )

    @pytest.mark.parametrize("condition", FILTERS, ids=lambda condition: str(condition.to_dict()))
    @pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
    async def test_filters_find_the_passages_that_matches_accepts(
        self, store: Store, condition: Filter, mode: Mode
    ) -> None:
        await store.upsert([PLAN, OLD, LETTER], tenant="a")
        asked = "deductible specialist ambulance dental glasses letter"
        everything = await store.search(query(asked, mode=mode, top_k=50))
        filtered = await store.search(query(asked, mode=mode, top_k=50, filter=condition))
        expected = {passage.chunk_id for passage in everything if condition.matches(passage)}
        assert {passage.chunk_id for passage in filtered} == expected

    async def test_vectors_of_another_dimension_are_a_configuration_error(self, store: Store) -> None:
        await store.upsert([PLAN], tenant="a")
        wrong = Query(question="q", tenant="a", mode="vector", top_k=1, vector=np.ones(3, np.float32))
        with pytest.raises(ConfigurationError, match="dimension"):
            await store.search(wrong)

    async def test_vector_search_without_a_vector_is_invalid(self, store: Store) -> None:
        await store.upsert([PLAN], tenant="a")
        with pytest.raises(InvalidInput):
            await store.search(Query(question="q", tenant="a", mode="vector", top_k=1))

    @pytest.mark.parametrize("tenant", ["", "  ", "x" * 300, "a\0b"])
    async def test_an_invalid_tenant_name_is_refused(self, store: Store, tenant: str) -> None:
        for call in (
            lambda: store.search(query("q", tenant=tenant)),
            lambda: store.upsert([PLAN], tenant=tenant),
            lambda: store.hashes(None, tenant=tenant),
            lambda: store.delete(["plan"], tenant=tenant),
            lambda: store.count(tenant=tenant),
            lambda: store.scores(embed_words("q", DIMENSION), tenant=tenant),
        ):
            with pytest.raises(InvalidInput, match="tenant"):
                await call()

    async def test_a_value_that_is_not_a_filter_is_refused(self, store: Store) -> None:
        await store.upsert([PLAN], tenant="a")
        with pytest.raises(InvalidInput, match="filter"):
            await store.search(replace(query("q"), filter=True))  # type: ignore[arg-type]

    async def test_the_order_of_equals_is_stable(self, store: Store) -> None:
        await store.upsert([embedded("d", *(["the same words"] * 5))], tenant="a")
        expected = [f"d#{number}" for number in range(5)]
        for mode in ("vector", "text", "hybrid"):
            assert await ids(store, query("the same words", mode=mode)) == expected

    async def test_the_text_to_embed_for_a_chunk_is_recorded(self, store: Store) -> None:
        assert isinstance(store, EmbedTextRecorder)
        assert await store.recorded_embed_text() in (None, "headings+text")
        assert await store.record_embed_text("title+text") in (None, "headings+text")
        assert await store.recorded_embed_text() == "title+text"
        assert await store.record_embed_text("title+text") == "title+text"

    @pytest.mark.parametrize(
        "tenant", ["", " ", "\u200b", "\u3164", "\u2800\u00a0", "\u0301", "\u202e", "\ufeff", "\t"]
    )
    async def test_an_invisible_tenant_name_is_refused_by_each_method(self, store: Store, tenant: str) -> None:
        for call in (
            lambda: store.search(query("deductible", tenant=tenant)),
            lambda: store.search(query("deductible", tenant=tenant, mode="text")),
            lambda: store.upsert([PLAN], tenant=tenant),
            lambda: store.hashes(None, tenant=tenant),
            lambda: store.delete(["plan"], tenant=tenant),
            lambda: store.count(tenant=tenant),
            lambda: store.scores(embed_words("deductible", DIMENSION), tenant=tenant),
        ):
            with pytest.raises(InvalidInput, match="the tenant is blank"):
                await call()

    @pytest.mark.slow
    async def test_expired_documents_are_not_found_and_the_next_expire_removes_them(self, store: Store) -> None:
        assert isinstance(store, Expiring)
        now = datetime.now(UTC)
        past, soon, later = (expiring(LETTER, now + timedelta(seconds=seconds), id) for id, seconds in EXPIRIES)
        await store.upsert([past, soon, later, PLAN], tenant="a")
        await store.upsert([past, PLAN], tenant="b")
        question = "thank you for your letter about glasses"
        for mode in MODES:
            assert {chunk.partition("#")[0] for chunk in await ids(store, query(question, mode=mode))} >= {
                "soon",
                "later",
            }
        await anyio.sleep(max(0.0, EXPIRIES[1][1] - (datetime.now(UTC) - now).total_seconds() + 0.1))
        for mode in MODES:
            asked = query(question, mode=mode)
            for one in (asked, replace(asked, top_k=100), replace(asked, filter=meta("kind").eq("letter"))):
                found = {chunk.partition("#")[0] for chunk in await ids(store, one)}
                assert found <= {"later", "plan"}, mode
                assert "later" in found, mode
        scores = await store.scores(embed_words(question, DIMENSION), tenant="a")
        assert set(scores.document_ids) == {"later", "plan"}
        # It is stored until it is removed, so that erasing a tenant finds it.
        assert set(await store.hashes(None, tenant="a")) == {"past", "soon", "later", "plan"}
        assert (await store.count(tenant="a")).chunks == 6
        assert await store.expire(limit=1) in ({"a": 1}, {"b": 1})
        assert sum((await store.expire()).values()) == 2
        assert await store.expire() == {}
        assert set(await store.hashes(None, tenant="a")) == {"later", "plan"}
        assert set(await store.hashes(None, tenant="b")) == {"plan"}
        assert (await store.count(tenant="a")).chunks == 4

    async def test_an_expired_document_can_be_replaced_and_deleted(self, store: Store) -> None:
        past = expiring(LETTER, datetime.now(UTC) - timedelta(days=1), "letter")
        await store.upsert([past], tenant="a")
        await store.upsert([past], tenant="a")
        assert await ids(store, query("glasses")) == []
        await store.upsert([LETTER], tenant="a")
        assert await ids(store, query("glasses", mode="hybrid")) == ["letter#0"]
        await store.upsert([past], tenant="a")
        assert await store.delete(["letter"], tenant="a") == 1
        assert (await store.count(tenant="a")) == Counts(documents=0, chunks=0)

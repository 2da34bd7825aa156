"""The contract of every store. Each suite runs for `MemoryStore` and, with a real database, for `PgVectorStore`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

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
from ragcore.protocols import AdjacentChunks, ChunkReader, EmbedTextRecorder, Expiring, SharingStore
from ragcore.store.fusion import fused_scores, reciprocal_ranks
from ragcore.testing.fakes import embed_words
from ragcore.types import Chunk, Counts, Fusion, Mode

DIMENSION = 64
MODES: tuple[Mode, ...] = ("vector", "text", "hybrid")
ODD_TEXTS = (
    "line\r\nline\rline\n",
    "  leading and trailing blanks \t ",
    "a\u00a0no-break space, a \ufeffbyte order mark, \u2028 a line separator",
    "decomposed e\u0301 and composed \u00e9",
    "\x01\x7f\x85 control characters",
    "🏳️‍🌈 and \U0010fffd and \u200b",
    "back\\slash \\u0000 'quote' \"double\" %s {braces} $1",
)
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

    async def test_in_hybrid_each_passage_has_its_similarity_and_must_reach_the_threshold(self, store: Store) -> None:
        await store.upsert([PLAN, OLD, LETTER], tenant="a")
        asked = query("ambulance", mode="hybrid", top_k=50)
        passages = await store.search(asked)
        assert passages[0].chunk_id == "plan#2"
        assert None not in [passage.score for passage in passages]
        # The vector search ends before this chunk, so only text search finds it. The passage still has its similarity.
        assert [p.score for p in passages if p.text_score is not None] == [passages[0].score]
        found = await store.search(replace(asked, score_threshold=0.999))
        assert isinstance(found, Found)
        assert (list(found), found.best_score) == ([], max(passage.score or 0.0 for passage in passages))

    @pytest.mark.parametrize("fusion", get_args(Fusion))
    async def test_hybrid_search_has_one_order_in_all_stores(self, store: Store, fusion: Fusion) -> None:
        many = [embedded(f"d{n}", f"common {'rare ' * (n % 3)}number{n} {'filler ' * (n % 5)}") for n in range(40)]
        await store.upsert(many, tenant="a")
        asked = replace(query("rare number7", mode="hybrid", top_k=50), fusion=fusion)
        passages = await store.search(asked)
        by_vector = await store.search(replace(asked, mode="vector"))
        by_text = await store.search(replace(asked, mode="text"))
        if fusion == "rank":
            ranks = reciprocal_ranks([p.chunk_id for p in by_vector], [p.chunk_id for p in by_text])
            wanted = sorted(ranks, key=lambda chunk_id: (-ranks[chunk_id], chunk_id))
        else:
            scores = dict(zip([p.chunk_id for p in passages], fused_scores(passages), strict=True))
            wanted = sorted(scores, key=lambda chunk_id: (-round(scores[chunk_id], 9), chunk_id))
        assert [passage.chunk_id for passage in passages] == wanted
        assert {p.chunk_id: p.text_score for p in passages if p.text_score is not None} == pytest.approx(
            {p.chunk_id: p.text_score for p in by_text}
        )

    @pytest.mark.parametrize("mode", MODES)
    async def test_a_query_can_ask_for_vectors(self, store: Store, mode: Mode) -> None:
        await store.upsert([PLAN, OLD, LETTER], tenant="a")
        found = await store.search(replace(query("deductible", mode=mode), with_vectors=True))
        assert isinstance(found, Found)
        assert found.vectors is not None
        stored = {c.id: v for one in (PLAN, OLD, LETTER) for c, v in zip(one.chunks, one.vectors, strict=True)}
        for passage, vector in zip(found, found.vectors, strict=True):
            assert vector is not None
            np.testing.assert_allclose(vector, stored[passage.chunk_id], atol=1e-6)

    async def test_the_chunks_around_a_passage_are_found_in_the_order_of_the_text(self, store: Store) -> None:
        assert isinstance(store, AdjacentChunks)
        await store.upsert([embedded("long", *(f"part{n} of the text" for n in range(12)))], tenant="a")
        await store.upsert([embedded("long", "another tenant's text")], tenant="b")
        passages = [Passage(f"long#{n}", "long", "") for n in (5, 0, 11)] + [Passage("gone#0", "gone", "")]
        around = await store.adjacent(passages, tenant="a", distance=2)
        assert [[one.chunk_id for one in chunks] for chunks in around] == [
            ["long#3", "long#4", "long#5", "long#6", "long#7"],
            ["long#0", "long#1", "long#2"],
            ["long#9", "long#10", "long#11"],
            [],
        ]
        assert (around[0][0].text, around[0][0].metadata["part"]) == ("part3 of the text", 3)

    async def test_all_chunks_of_a_document_are_returned_in_the_order_of_the_text(self, store: Store) -> None:
        assert isinstance(store, ChunkReader)
        # More than the 1,000 that a search may return, and more than are written at once. The order of the ids is not the order of the text.
        await store.upsert([embedded("long", *(f"part{n}" for n in range(1_203)))], tenant="a")
        await store.upsert([embedded("other", "of the same tenant")], tenant="a")
        await store.upsert([embedded("long", "another tenant's text")], tenant="b")
        found = await store.document_chunks("long", tenant="a")
        assert [passage.text for passage in found] == [f"part{n}" for n in range(1_203)]
        assert (found[2].chunk_id, found[2].document_id, found[2].metadata["part"]) == ("long#2", "long", 2)
        assert (found[2].score, found[2].text_score, found.vectors) == (None, None, None)
        assert await store.document_chunks("missing", tenant="a") == []
        assert await store.document_chunks("long", tenant="nobody") == []

    async def test_chunks_are_returned_by_their_ids_in_the_order_of_the_ids(self, store: Store) -> None:
        assert isinstance(store, ChunkReader)
        await store.upsert([PLAN, OLD], tenant="a")
        await store.upsert([embedded("secret", "another tenant's text")], tenant="b")
        known = [chunk.id for chunk in (*PLAN.chunks, *OLD.chunks)]
        wanted = [known[-1], "missing", known[0], "secret#0", known[-1]]
        found = await store.chunks_by_id(wanted, tenant="a")
        assert [passage.chunk_id for passage in found] == [known[-1], known[0]]
        assert await store.chunks_by_id([], tenant="a") == []

    async def test_chunks_come_with_their_vectors_on_request(self, store: Store) -> None:
        assert isinstance(store, ChunkReader)
        await store.upsert([PLAN, OLD], tenant="a")
        for found in (
            await store.document_chunks("plan", tenant="a", with_vectors=True),
            await store.chunks_by_id([chunk.id for chunk in PLAN.chunks], tenant="a", with_vectors=True),
        ):
            assert found.vectors is not None
            assert len(found) == len(PLAN.chunks)
            np.testing.assert_allclose(np.stack([v for v in found.vectors if v is not None]), PLAN.vectors, atol=1e-6)

    async def test_of_equal_ids_in_one_batch_the_last_wins(self, store: Store) -> None:
        assert isinstance(store, ChunkReader)
        batch = [embedded("d", "first", "and more", hash="1"), embedded("e", "other"), embedded("d", "last", hash="2")]
        await store.upsert(batch, tenant="a")
        assert [passage.text for passage in await store.document_chunks("d", tenant="a")] == ["last"]
        assert await store.hashes(["d"], tenant="a") == {"d": "2"}
        assert await store.count(tenant="a") == Counts(documents=2, chunks=2)

    @pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
    async def test_texts_come_back_as_they_were_given(self, store: Store, text: str) -> None:
        assert isinstance(store, ChunkReader)
        await store.upsert([embedded("d", text, title=text, metadata={"odd": text})], tenant="a")
        (found,) = await store.document_chunks("d", tenant="a")
        assert (found.text, found.title, found.metadata["odd"]) == (text, text, text)

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

    async def test_an_expired_document_has_no_chunks(self, store: Store) -> None:
        assert isinstance(store, ChunkReader)
        kept, gone = embedded("kept", "text"), embedded("gone", "text")
        past = replace(gone.document, expires_at=datetime.now(UTC) - timedelta(seconds=1))
        await store.upsert([kept, replace(gone, document=past)], tenant="a")
        assert await store.document_chunks("gone", tenant="a") == []
        assert [one.chunk_id for one in await store.chunks_by_id(["gone#0", "kept#0"], tenant="a")] == ["kept#0"]

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


async def check_shared_search(
    store: Store,
    *,
    mark: Callable[[str], object],
    unmark: Callable[[str], object],
) -> None:
    """Check that other tenants can search and read the documents of a tenant only if it is marked as shared, and can't change them.

    Args:
        store: an empty store.
        mark, unmark: functions that begin and end sharing; they may return an awaitable.
    """
    assert isinstance(store, SharingStore)
    await store.upsert(
        [embedded("own", "my own deductible letter"), embedded("same", "deductible of mine")], tenant="a"
    )
    await store.upsert([embedded("same", "deductible of all plans"), embedded("other", "gold plan")], tenant="plans")
    await store.upsert([embedded("secret", "secret deductible")], tenant="b")
    for mode in MODES:
        asked = replace(query("deductible plan", mode=mode, top_k=50), shared=("plans",))
        for unmarked in (("plans",), ("b",), ("plans", "b"), ("nobody's",)):
            with pytest.raises(InvalidInput, match="not shared"):
                await store.search(replace(asked, shared=unmarked))
    await _done(mark("plans"))
    assert list(await store.shared_tenants()) == ["plans"]
    for mode in MODES:
        asked = replace(query("deductible plan", mode=mode, top_k=50), shared=("plans",))
        found = await store.search(replace(asked, with_vectors=True))
        of_each = {(passage.chunk_id, passage.shared) for passage in found}
        assert of_each == {("own#0", None), ("same#0", None), ("same#0", "plans"), ("other#0", "plans")}
        assert len(found) == 4
        texts = {passage.shared: passage.text for passage in found if passage.document_id == "same"}
        assert texts == {None: "deductible of mine", "plans": "deductible of all plans"}
        assert {p.shared for p in await store.search(replace(asked, shared=()))} == {None}
        own = await store.search(replace(asked, tenant="plans", shared=()))
        assert {p.chunk_id for p in own} == {"same#0", "other#0"}
        matching = await store.search(replace(asked, filter=meta("part").eq(0), top_k=1))
        assert len(matching) == 1
        with pytest.raises(InvalidInput, match="'b'"):
            await store.search(replace(asked, shared=("plans", "b")))
    # Shared documents can only be read: counts, hashes and deletions apply to the caller's own documents.
    assert isinstance(store, AdjacentChunks)
    around = await store.adjacent([Passage("same#0", "same", "", shared="plans")], tenant="a", distance=1)
    assert [[(one.text, one.shared) for one in chunks] for chunks in around] == [[("deductible of all plans", "plans")]]
    assert set(await store.hashes(None, tenant="a")) == {"own", "same"}
    assert (await store.count(tenant="a")).documents == 2
    assert await store.delete(["same", "other"], tenant="a") == 1
    assert set(await store.hashes(None, tenant="plans")) == {"same", "other"}
    await _done(unmark("plans"))
    with pytest.raises(InvalidInput, match="not shared"):
        await store.search(replace(query("deductible plan", mode="text"), shared=("plans",)))


async def _done(result: object) -> None:
    if inspect.isawaitable(result):
        await result

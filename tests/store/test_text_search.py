"""Text search with a small limit for the postings that are read, so that small stores reach the limit as large ones do."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from ragcore import MemoryStore, PgVectorStore, meta
from ragcore.store import migrate, share
from ragcore.store.postgres import searches

from .contract import DIMENSION, embedded, query

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
CHUNKS = 400


@pytest.fixture
async def store(database: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PgVectorStore]:
    """Fill a store for two tenants. Each chunk of the first has the word "common", every tenth has "frequent", and one has "rare".

    Each chunk of the second tenant has all three words.
    """
    monkeypatch.setattr(searches, "LISTED", 20)
    monkeypatch.setattr(searches, "RERANKED", 30)
    searches._compose.cache_clear()
    await migrate(database[1], model="fake", dimension=DIMENSION, role="ragcore")
    documents = [
        embedded(
            f"d{n}",
            f"common words {'frequent ' if n % 10 == 0 else ''}{'rare ' if n == 123 else ''}number{n}",
            metadata={"n": n},
        )
        for n in range(CHUNKS)
    ]
    async with PgVectorStore(database[0]) as made:
        await made.upsert(documents, tenant="a")
        await made.upsert([embedded(f"o{n}", "common frequent rare") for n in range(50)], tenant="b")
        yield made
    searches._compose.cache_clear()


@pytest.mark.parametrize("mode", ["text", "hybrid"])
async def test_a_question_of_common_words_alone_finds_something(store: PgVectorStore, mode: str) -> None:
    found = await store.search(query("common", mode=mode))  # type: ignore[arg-type]
    assert len(found) == 5
    assert all("common" in passage.text for passage in found)


async def test_the_rarer_a_word_the_more_it_weighs(store: PgVectorStore) -> None:
    found = await store.search(query("common frequent rare", mode="text", top_k=10))
    assert found[0].document_id == "d123"
    assert all("frequent" in passage.text for passage in found[1:])


async def test_a_filter_that_none_of_the_listed_chunks_passes_is_completed(store: PgVectorStore) -> None:
    for wanted in (7, 333):
        found = await store.search(query("common", mode="text", filter=meta("n").eq(wanted)))
        assert [passage.document_id for passage in found] == [f"d{wanted}"]
    found = await store.search(query("common", mode="text", top_k=50, filter=meta("n").lt(35)))
    assert len(found) == 35
    assert await store.search(query("rare", mode="text", filter=meta("n").eq(7))) == []


async def test_a_question_of_many_words_finds_chunks_and_one_of_unknown_words_none(store: PgVectorStore) -> None:
    found = await store.search(query(" ".join(f"number{n}" for n in range(300)), mode="text"))
    assert len(found) == 5
    assert await store.search(query("unheardof", mode="text")) == []
    assert await store.search(query("the of and", mode="text")) == []


async def test_postings_follow_each_write(store: PgVectorStore, database: tuple[str, str]) -> None:
    await store.upsert([embedded("d123", "something else")], tenant="a")
    assert await store.search(query("rare", mode="text")) == []
    await store.delete([f"d{n}" for n in range(CHUNKS)], tenant="a")
    owner = await asyncpg.connect(database[1])
    assert await owner.fetchval("select count(*) from ragcore.posting where tenant = 'a'") == 0
    assert await owner.fetchval("select count(*) from ragcore.posting where tenant = 'b'") == 150
    await owner.execute("truncate ragcore.chunk")
    assert await owner.fetchval("select count(*) from ragcore.posting") == 0
    await owner.close()


@pytest.mark.parametrize("language", ["english", "simple"])
async def test_memory_and_postgres_rank_alike(database: tuple[str, str], language: str) -> None:
    await migrate(database[1], model="fake", dimension=DIMENSION, role="ragcore", language=language)
    seed = random.Random(7)  # not for security
    async with PgVectorStore(database[0]) as store, MemoryStore(language=language) as memory:  # type: ignore[arg-type]
        words = "the deductible deductibles university running well-known 20th-century 1.5 42 and/or km/h Zürich prices added e.g. plan-b 保証期間".split()
        for tenant in ("small", "large"):
            documents = [
                embedded(
                    f"d{n}", *(" ".join(seed.choices(words, k=seed.randrange(1, 60))) for _ in range(2)), title="Plan"
                )
                for n in range(10 if tenant == "small" else 300)
            ]
            await store.upsert(documents, tenant=tenant)
            await memory.upsert(documents, tenant=tenant)
            for _ in range(20):
                question = " ".join(seed.choices(words, k=seed.randrange(1, 8)))
                for mode in ("text", "hybrid"):
                    asked = query(question, tenant=tenant, mode=mode, top_k=20)
                    ours, theirs = await store.search(asked), await memory.search(asked)
                    assert [p.text_score for p in ours] == pytest.approx([p.text_score for p in theirs], abs=1e-6)
                    assert [p.chunk_id for p in ours] == [p.chunk_id for p in theirs]


async def test_text_search_without_postings_agrees_with_its_parameters(
    store: PgVectorStore, database: tuple[str, str]
) -> None:
    owner = await asyncpg.connect(database[1])
    await owner.execute("update ragcore.setting set value = 'pending' where name = 'text'")
    await owner.close()
    async with PgVectorStore(database[0]) as scanning:
        for mode in ("text", "hybrid"):
            for shared in ((), ("b",)):
                if shared:
                    await share(database[1], "b")
                asked = replace(query("rare", mode=mode, top_k=100), shared=shared)
                found = await scanning.search(asked)
                assert ("d123", None) in [(passage.document_id, passage.shared) for passage in found]
                assert any(passage.shared for passage in found) is bool(shared)

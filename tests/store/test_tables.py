"""`TableStore`: the reading half of the contract on tables of other programs, mappings that don't fit, isolation, and plans."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from ragcore import Passage, Store, Unsupported
from ragcore.testing.fakes import embed_words

from .contract import DIMENSION, MODES, OLD, PLAN, StoreContract, embedded, query
from .tables import LANGCHAIN, LLAMA_INDEX, ORIGIN, FilledTable, Shape

pytestmark = pytest.mark.system


async def create(owner_dsn: str, shape: Shape) -> None:
    owner = await asyncpg.connect(owner_dsn)
    try:
        await owner.execute("create extension if not exists vector")
        await owner.execute(shape.create.replace("{dimension}", str(DIMENSION)))
    finally:
        await owner.close()


class TestOrigin(StoreContract):
    """The reading half of the contract. The tests of the other half are None."""

    shape = ORIGIN
    exact_rows: int | None = None

    # A table of others records no embedding text, expiry and content hashes, and its store deletes nothing.
    test_the_text_to_embed_for_a_chunk_is_recorded = None  # type: ignore[assignment]
    test_expired_documents_are_not_found_and_the_next_expire_removes_them = None  # type: ignore[assignment]
    test_an_expired_document_can_be_replaced_and_deleted = None  # type: ignore[assignment]
    test_deleting = None  # type: ignore[assignment]
    test_a_document_that_shrank_leaves_no_stale_chunks = None  # type: ignore[assignment]
    # What text search reads is for the table to say: here, the text alone.
    test_titles_are_searched_too = None  # type: ignore[assignment]

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, database: tuple[str, str]) -> AsyncIterator[FilledTable]:
        await create(database[1], self.shape)
        async with FilledTable(*database, self.shape, exact_rows=self.exact_rows) as made:
            yield made

    async def test_the_nearest_passage_comes_first_with_its_position_and_scores(self, store: Store) -> None:
        """The contract, without the place of the text in the document, which the table does not have."""
        await store.upsert([PLAN, OLD], tenant="a")
        best, second = await store.search(query("the deductible is 1500", top_k=2))
        assert (best.chunk_id, second.chunk_id) == ("plan#0", "old#0")
        assert (best.document_id, best.text, best.title, best.source) == (
            "plan",
            "the deductible is 1500",
            "Gold plan",
            "plan.md",
        )
        assert {"year": 2024, "kind": "plan", "part": 0}.items() <= best.metadata.items()
        assert best.score == pytest.approx(1.0, abs=1e-5)
        assert (best.start, best.end, best.text_score) == (None, None, None)

    @pytest.mark.parametrize("mode", MODES)
    async def test_tenants_never_see_each_other(self, store: Store, mode: str) -> None:
        await store.upsert([PLAN], tenant="a")
        await store.upsert([embedded("plan", "the deductible is 7777")], tenant="b")
        asked = query("deductible 7777", mode=mode)  # type: ignore[arg-type]
        assert all("7777" not in passage.text for passage in await store.search(asked))
        of_b = await store.search(query("deductible 1500", tenant="b", mode=mode))  # type: ignore[arg-type]
        assert [passage.text for passage in of_b] == ["the deductible is 7777"]
        assert await store.search(query("deductible", tenant="nobody", mode=mode)) == []  # type: ignore[arg-type]
        assert await store.hashes(None, tenant="b") == {"b:plan": ""}
        assert (await store.count(tenant="a")).chunks == 3
        assert list((await store.scores(embed_words("deductible", DIMENSION), tenant="b")).chunk_ids) == ["b:plan#0"]

    async def test_it_refuses_to_write(self, store: Store) -> None:
        with pytest.raises(Unsupported, match="only reads"):
            await store.upsert([PLAN], tenant="c")
        with pytest.raises(Unsupported, match="only reads"):
            await store.delete(["plan"], tenant="c")
        with pytest.raises(Unsupported, match="one tenant"):
            await store.count(tenant=None)


class TestOriginByIndex(TestOrigin):
    exact_rows = 0


class TestLangChain(TestOrigin):
    shape = LANGCHAIN
    test_the_chunks_around_a_passage_are_found_in_the_order_of_the_text = None  # type: ignore[assignment]

    async def test_the_chunks_around_a_passage_are_unsupported_without_an_order(self, store: FilledTable) -> None:
        with pytest.raises(Unsupported, match="order"):
            await store.adjacent([Passage("plan#0", "plan", "")], tenant="a", distance=1)


class TestLangChainByIndex(TestLangChain):
    exact_rows = 0


class TestLlamaIndex(TestOrigin):
    shape = LLAMA_INDEX


class TestLlamaIndexByIndex(TestLlamaIndex):
    exact_rows = 0

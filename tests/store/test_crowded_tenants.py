"""A tenant among nearer chunks of another tenant: a walk through the index that ends at its limit is completed by an exact scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import anyio
import asyncpg
import numpy as np
import pytest

from ragcore import Found, PgVectorStore, Query, Searcher, Table, TableStore, meta
from ragcore.store import migrate
from ragcore.store.postgres import searches
from ragcore.store.postgres.extension import encode_vector, find_extension
from ragcore.store.postgres.table import statements
from ragcore.types import Mode
from tests.support.made import Vectors, copy_chunks, near

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

DIMENSION = 24
TOP_K = 5
EF_SEARCH = 40
# The walk ends after this many chunks, instead of 8,000, so that the test needs few chunks. It then has found 5 to 15 chunks of the tenant "own", which is
# enough for an answer, and misses some of the 5 nearest.
SCAN_TUPLES = 300
OTHERS, NEAR, FAR = 1_300, 40, 200
# Chunks of the tenant "mixed", which are as near as those of the tenant "other".
MIXED = 200
MAPPING = Table(table="chunks", tenant="tenant", metadata="metadata", isolation="where")


@dataclass(frozen=True)
class Crowd:
    """A collection, and a table `chunks` with the same rows.

    Attributes:
        dsn: DSN of the plain role.
        questions: vectors to which chunks of the other tenant are nearer.
        own, mixed: vectors of these tenants, by the number in the chunk's id.
    """

    dsn: str
    questions: Sequence[Vectors]
    own: Vectors
    mixed: Vectors

    async def check(self, store: Searcher, mode: Mode, *, filtered: bool) -> None:
        """Ask each question twice, because the second statement may be another one: the store then knows that the tenant is large."""
        allowed = np.arange(0, len(self.own), 3 if filtered else 1)
        asked = Query(
            question="absent", tenant="own", mode=mode, top_k=TOP_K, filter=meta("third").eq(True) if filtered else None
        )
        for question in [one for one in self.questions for _ in range(2)]:
            found = await store.search(replace(asked, vector=question))
            nearest = allowed[np.argsort(-(self.own[allowed] @ question))[:TOP_K]]
            assert [passage.chunk_id for passage in found] == [f"own-{number}" for number in nearest]
            assert isinstance(found, Found)
            assert found.scan == "completed"


@pytest.fixture
async def crowd(database: tuple[str, str]) -> Crowd:
    draw = np.random.default_rng(1)
    centre = draw.normal(size=DIMENSION).astype(np.float32)
    centre /= np.linalg.norm(centre)
    own = np.vstack([near(draw, centre, NEAR, 0.83), near(draw, centre, FAR, 0.2)])
    draw.shuffle(own)
    mixed = near(draw, centre, MIXED, 0.85)
    plain, owner_dsn = database
    await migrate(owner_dsn, model="made", dimension=DIMENSION, role="ragcore")
    owner = await asyncpg.connect(owner_dsn)
    try:
        extension = await find_extension(owner)
        await owner.set_type_codec(
            "vector", schema=extension.schema, encoder=encode_vector, decoder=bytes, format="binary"
        )
        await owner.execute("drop index ragcore.chunk_embedding")
        await copy_chunks(owner, "ragcore", "own", repeat("chunk", len(own)), own)
        await copy_chunks(owner, "ragcore", "other", repeat("chunk", OTHERS), near(draw, centre, OTHERS, 0.85))
        await copy_chunks(owner, "ragcore", "mixed", repeat("chunk", MIXED), mixed)
        index = f"using hnsw (embedding {extension.schema}.vector_cosine_ops) with (m = 8, ef_construction = 32)"
        await owner.execute(f"""
            update ragcore.chunk set metadata = '{{"third": true}}' where position % 3 = 0;
            create table chunks as select tenant, id, text, embedding, metadata from ragcore.chunk;
            grant select on chunks to ragcore;
            create index on chunks (tenant);
            create index on chunks {index};
            create index chunk_embedding on ragcore.chunk {index};
            analyze chunks;
            analyze ragcore.chunk;
        """)
    finally:
        await owner.close()
    return Crowd(plain, [near(draw, centre, 1, 0.95)[0] for _ in range(6)], own, mixed)


@pytest.fixture
def short_walks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for module in (searches, statements):
            patch.setattr(module, "SCAN_TUPLES", SCAN_TUPLES)
        _forget_statements()
        yield
    _forget_statements()


def _forget_statements() -> None:
    searches._compose.cache_clear()
    statements._compose_search.cache_clear()


@pytest.mark.usefixtures("short_walks")
async def test_a_collection_finds_the_nearest(crowd: Crowd) -> None:
    async with PgVectorStore(crowd.dsn, exact_rows=0, ef_search=EF_SEARCH) as store:
        for mode in ("vector", "hybrid"):
            for filtered in (False, True):
                await crowd.check(store, mode, filtered=filtered)


@pytest.mark.usefixtures("short_walks")
async def test_an_existing_table_finds_the_nearest(crowd: Crowd) -> None:
    async with TableStore(crowd.dsn, MAPPING, exact_rows=0, ef_search=EF_SEARCH) as store:
        for mode in ("vector", "hybrid"):
            for filtered in (False, True):
                await crowd.check(store, mode, filtered=filtered)


async def test_an_existing_table_walks_on_for_a_tenant_whose_chunks_are_mixed_with_others(crowd: Crowd) -> None:
    """Too few of the first chunks of the index are the tenant's. The store remembers that, so that the next search is one statement again."""
    async with TableStore(crowd.dsn, MAPPING, exact_rows=0, ef_search=EF_SEARCH) as store:
        right = 0
        for question in [one for one in crowd.questions for _ in range(3)]:
            asked = Query(question="absent", tenant="mixed", mode="vector", top_k=TOP_K, vector=question)
            found = await store.search(asked)
            assert isinstance(found, Found)
            assert (len(found), found.scan) == (TOP_K, "index")
            nearest = np.argsort(-(crowd.mixed @ question))[:TOP_K]
            right += len({passage.chunk_id for passage in found} & {f"mixed-{number}" for number in nearest})
        assert right >= 0.9 * 3 * TOP_K * len(crowd.questions)
        assert store._tenants.walks_on.get("mixed")


async def test_searches_of_such_a_tenant_at_the_same_time_all_find_enough(crowd: Crowd) -> None:
    """The first search to end makes the store remember that the tenant's searches walk on. The others began before that, so they search again, too."""
    found: list[int] = []
    wanted = EF_SEARCH // 2  # more than the tenant's part of the first chunks of the index
    async with TableStore(crowd.dsn, MAPPING, exact_rows=0, ef_search=EF_SEARCH) as store:

        async def search(question: Vectors) -> None:
            asked = Query(question="absent", tenant="mixed", mode="vector", top_k=wanted, vector=question)
            found.append(len(await store.search(asked)))

        store._tenants.exactly.put("mixed", False)
        async with anyio.create_task_group() as group:
            for question in crowd.questions:
                group.start_soon(search, question)
    assert found == [wanted] * len(crowd.questions)

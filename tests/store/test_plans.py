"""Every statement returns the right result with each plan. Stores of seeded shapes and settings of the planner are compared with `MemoryStore`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import numpy as np
import pytest

from ragcore import EmbeddedDocument, MemoryStore, PgVectorStore, Query, meta
from ragcore.store import share
from ragcore.testing.fakes import embed_words

from .contract import DIMENSION, MODES, embedded

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

# Settings that change the planner's choices. Each is tried alone.
PLANNER = (
    "",
    *(
        f"enable_{name} = off"
        for name in (
            "nestloop hashjoin mergejoin seqscan indexscan indexonlyscan bitmapscan sort incremental_sort hashagg material memoize tidscan".split()
        )
    ),
    "plan_cache_mode = force_custom_plan",
    "jit_above_cost = 0",
    "from_collapse_limit = 1",
    "join_collapse_limit = 1",
    "random_page_cost = 1000",
    "cpu_tuple_cost = 100",
)
SHARED = "t0"
WORDS = "alpha beta gamma delta kappa omega copay ambulance dental glasses visit plan gold silver bronze network claim hospital".split()


@dataclass(frozen=True)
class Shape:
    """The shape of a store: numbers of its tenants, documents and chunks."""

    seed: int
    tenants: int
    documents: int
    chunks: int

    def documents_of(self, tenant: int) -> list[EmbeddedDocument]:
        draw = random.Random(1_000 * self.seed + tenant)
        return [
            embedded(
                f"d{number}",
                *(" ".join(draw.choices(WORDS, k=6)) for _ in range(self.chunks)),
                metadata={"year": 2_000 + draw.randrange(30)},
                hash=f"{tenant}:{number}",
            )
            for number in range(self.documents)
        ]


def shapes(count: int) -> list[Shape]:
    """Return shapes that failed once, then random ones."""
    known = [(10, 10, 1), (5, 10, 1), (3, 4, 1), (40, 3, 1), (1, 1, 1), (2, 1, 30)]
    draw = random.Random(13)
    while len(known) < count:
        known.append((draw.choice([1, 2, 3, 7, 20, 60]), draw.choice([1, 2, 5, 12, 40]), draw.choice([1, 1, 2, 6])))
    return [Shape(number, *size) for number, size in enumerate(known[:count])]


@pytest.mark.parametrize("shape", shapes(1), ids=str)
async def test_statements_are_right_for_a_sample_of_shapes(migrated: tuple[str, str], shape: Shape) -> None:
    """Each planner setting is tried once, in turn before and after ANALYZE."""
    await compare(migrated, shape, PLANNER[::2], PLANNER[1::2])


@pytest.mark.thorough
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(0, 204, 12))
async def test_statements_are_right_for_every_shape(server: tuple[str, str], template: str, first: int) -> None:
    for shape in shapes(204)[first : first + 12]:
        admin = await asyncpg.connect(server[1])
        name = f"plans_{shape.seed}"
        await admin.execute(f"drop database if exists {name} with (force)")
        await admin.execute(f"create database {name} template {template}")
        plain, owner = (dsn.replace("/ragcore?", f"/{name}?") for dsn in server)
        try:
            await compare((plain, owner), shape, PLANNER, PLANNER)
        finally:
            await admin.execute(f"drop database {name} with (force)")
            await admin.close()


async def compare(dsns: tuple[str, str], shape: Shape, before: Sequence[str], after: Sequence[str]) -> None:
    """Compare all statements with `MemoryStore`, with these planner settings before and after ANALYZE."""
    memory = MemoryStore()
    async with memory, PgVectorStore(dsns[0]) as store:
        for tenant in range(shape.tenants):
            documents = shape.documents_of(tenant)
            await store.upsert(documents, tenant=f"t{tenant}")
            await memory.upsert(documents, tenant=f"t{tenant}")
        await share(dsns[1], SHARED)
        memory.share(SHARED)
        owner = await asyncpg.connect(dsns[1])
        name = await owner.fetchval("select current_database()")
        for analyzed in (False, True):
            if analyzed:
                await owner.execute("analyze")
            for setting in after if analyzed else before:
                await owner.execute(f"alter database {name} reset all")
                if setting:
                    await owner.execute(f"alter database {name} set {setting}")
                await _compare_statements(dsns[0], memory, shape, f"{shape}, analyzed: {analyzed}, {setting}")
        await owner.close()


async def _compare_statements(dsn: str, memory: MemoryStore, shape: Shape, where: str) -> None:
    draw = random.Random(where)
    # To get custom plans, the statements must not request generic plans. They don't request them behind a pooler.
    pooled = "&pgbouncer=true" if "custom" in where else ""
    tenants = [f"t{draw.randrange(shape.tenants)}", "nobody"]
    everything = shape.tenants * shape.documents * shape.chunks
    async with PgVectorStore(dsn + pooled, pool_size=1) as store, PgVectorStore(dsn + pooled, exact_rows=0) as indexed:
        for tenant in tenants:
            assert await store.hashes(None, tenant=tenant) == await memory.hashes(None, tenant=tenant), where
            ids = ["d0", f"d{draw.randrange(shape.documents)}", "missing"]
            assert await store.hashes(ids, tenant=tenant) == await memory.hashes(ids, tenant=tenant), where
            assert await store.count(tenant=tenant) == await memory.count(tenant=tenant), where
            question = " ".join(draw.choices(WORDS, k=3))
            vector = embed_words(question, DIMENSION)
            ours, theirs = await store.scores(vector, tenant=tenant), await memory.scores(vector, tenant=tenant)
            assert sorted(ours.chunk_ids) == sorted(theirs.chunk_ids), where
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
            conditions = itertools.product(MODES, (None, meta("year").ge(2_015)), ((), (SHARED,)))
            for mode, filter, shared in conditions:
                asked = Query(
                    question=question,
                    tenant=tenant,
                    mode=mode,
                    top_k=min(1_000, everything),
                    vector=None if mode == "text" else vector,
                    filter=filter,
                    shared=shared if tenant != SHARED else (),
                )
                right = {(p.chunk_id, p.shared): p for p in await memory.search(asked)}
                for tried in (store, indexed):
                    found = await tried.search(asked)
                    condition = None if filter is None else filter.to_dict()
                    context = f"{where}, {tenant}, {mode}, {condition}, {shared}, {tried.exact_rows}"
                    assert {(p.chunk_id, p.shared) for p in found} == right.keys(), context
                    for passage in found:
                        same = right[passage.chunk_id, passage.shared]
                        assert passage.text == same.text, context
                        assert passage.score == pytest.approx(same.score, abs=1e-5), context
                        assert passage.text_score == pytest.approx(same.text_score, abs=1e-6), context
                around = await store.adjacent(list(right.values())[:3], tenant=tenant, distance=1)
                assert around == await memory.adjacent(list(right.values())[:3], tenant=tenant, distance=1), where
            assert await store.delete(["missing"], tenant=tenant) == 0
        assert (await store.count(tenant=None)).chunks == everything, where
        diagnosis = await store.diagnose(Query(question="q", tenant=tenants[0], mode="text", top_k=1))
        assert (diagnosis.chunks, tuple(diagnosis.models)) == (shape.documents * shape.chunks, ("fake",)), where
        again = shape.documents_of(int(tenants[0][1:]))[:2]
        await store.upsert(again, tenant=tenants[0])
        assert await store.hashes(None, tenant=tenants[0]) == await memory.hashes(None, tenant=tenants[0]), where

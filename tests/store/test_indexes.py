"""The kinds of indexes: each finds what an exact search finds; they are built and replaced while the collection is in use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import get_args

import anyio
import asyncpg
import numpy as np
import pytest

from ragcore import ConfigurationError, EmbeddedDocument, InvalidInput, MemoryStore, PgVectorStore, Query, meta
from ragcore.resilience import deadline
from ragcore.store import Index, IndexBuild, IndexProgress, build_index, migrate
from ragcore.store.postgres.index import IndexKind, default_kind
from ragcore.testing.fakes import embed_words

from .contract import DIMENSION, MODES, StoreContract, embedded, query

pytestmark = pytest.mark.system
anyio_test = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


KINDS = get_args(IndexKind)
WORDS = "alpha beta gamma delta kappa omega copay ambulance dental glasses visit plan gold silver bronze claim".split()


def documents(seed: int, count: int = 12) -> list[EmbeddedDocument]:
    draw = np.random.default_rng(seed)
    return [
        embedded(
            f"d{number}",
            *(" ".join(draw.choice(WORDS, 4)) + f" {seed} {number} {part}" for part in range(5)),
            metadata={"year": 2_000 + number},
        )
        for number in range(count)
    ]


async def made(database: tuple[str, str], kind: IndexKind) -> tuple[str, str]:
    await migrate(database[1], model="fake", dimension=DIMENSION, role="ragcore", index=Index(kind=kind))
    return database


async def indexes(owner_dsn: str) -> dict[str, tuple[str, bool]]:
    """Return operator class and validity of each HNSW index, by name."""
    owner = await asyncpg.connect(owner_dsn)
    try:
        rows = await owner.fetch(
            """
            select i.relname, opcname, indisvalid from pg_index join pg_class as i on i.oid = indexrelid
            join pg_am on pg_am.oid = i.relam and amname = 'hnsw' join pg_opclass on pg_opclass.oid = indclass[0]
            """
        )
        return {row["relname"]: (row["opcname"], row["indisvalid"]) for row in rows}
    finally:
        await owner.close()


class Indexed(StoreContract):
    """The contract through an index of one kind, for tenants of any size."""

    kind: IndexKind

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, database: tuple[str, str]) -> AsyncIterator[PgVectorStore]:
        await made(database, self.kind)
        async with PgVectorStore(database[0], exact_rows=0) as store:
            yield store


@pytest.mark.thorough
class TestHalf(Indexed):
    kind = "halfvec"


@pytest.mark.thorough
class TestBinary(Indexed):
    kind = "binary"


@pytest.mark.thorough
class TestNone(Indexed):
    kind = "none"


@anyio_test
@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_finds_what_an_exact_search_finds(database: tuple[str, str], kind: IndexKind) -> None:
    await made(database, kind)
    memory = MemoryStore()
    # One store knows after its first search that the tenant is large, so the second search of each kind has another statement.
    async with memory, PgVectorStore(database[0], exact_rows=0) as store:
        for tenant, seed in (("a", 1), ("b", 2)):
            await store.upsert(documents(seed), tenant=tenant)
            await memory.upsert(documents(seed), tenant=tenant)
        for mode in MODES:
            for condition in (None, meta("year").ge(2_006)):
                asked = query("gold plan copay 1", mode=mode, top_k=7, filter=condition)
                right = await memory.search(asked)
                for _ in range(2):
                    found = await store.search(asked)
                    assert [p.chunk_id for p in found] == [p.chunk_id for p in right], (mode, condition)
                    assert [p.score for p in found] == pytest.approx([p.score for p in right], abs=1e-5)
        found = await store.search(query("gold plan", threshold=0.999))
        assert list(found) == []
        assert (await store.explain(query("gold plan"))).kind == kind


@anyio_test
async def test_an_index_is_replaced_while_documents_are_written_and_searched(database: tuple[str, str]) -> None:
    await made(database, "vector")
    built: list[IndexBuild] = []
    async with PgVectorStore(database[0], exact_rows=0) as store:
        await store.upsert(documents(1), tenant="a")
        right = [p.chunk_id for p in await store.search(query("gold plan copay"))]

        async def use() -> None:
            number = 0
            while True:
                await store.upsert(documents(100 + number, count=1), tenant="writer")
                assert [p.chunk_id for p in await store.search(query("gold plan copay"))] == right
                number += 1

        async with anyio.create_task_group() as group:
            group.start_soon(use)
            for kind in ("halfvec", "binary", "none", "vector"):
                built.append(await build_index(database[1], kind=kind, keep_seconds=0, m=8))
            group.cancel_scope.cancel()
        assert [p.chunk_id for p in await store.search(query("gold plan copay"))] == right
    assert [one.index.kind for one in built] == ["halfvec", "binary", "none", "vector"]
    assert [one.built for one in built] == [("chunk",), ("chunk",), (), ("chunk",)]
    assert [one.bytes > 0 for one in built] == [True, True, False, True]
    assert await indexes(database[1]) == {"chunk_embedding": ("vector_cosine_ops", True)}
    again = await build_index(database[1])
    assert (again.index, again.built) == (Index(kind="vector", m=8), ())


@anyio_test
async def test_an_open_store_reads_the_new_kind(database: tuple[str, str]) -> None:
    await made(database, "vector")
    async with PgVectorStore(database[0], exact_rows=0) as store:
        await store.upsert(documents(1), tenant="a")
        asked = query("gold plan copay")
        assert "of the kind vector" in str(await store.explain(asked))
        await build_index(database[1], kind="binary", keep_seconds=0)
        primary = store._collection._primary
        assert primary is not None
        primary._read_again_at = 0.0  # as after 30 seconds
        explanation = await store.explain(asked)
        assert explanation.kind == "binary"
        assert explanation.scan in ("index", "completed")


@anyio_test
async def test_an_interrupted_build_is_found_and_replaced(database: tuple[str, str]) -> None:
    await made(database, "vector")
    async with PgVectorStore(database[0], exact_rows=0) as store:
        await store.upsert(documents(1), tenant="a")
        writer = await asyncpg.connect(database[1])
        async with writer.transaction():
            # A build waits for transactions that have written to the table.
            await writer.execute("lock table ragcore.chunk in row exclusive mode")
            seen: list[IndexProgress] = []
            building = anyio.Event()

            def progress(now: IndexProgress) -> None:
                seen.append(now)
                building.set()

            async with anyio.create_task_group() as group:
                group.start_soon(lambda: build_index(database[1], kind="halfvec", progress=progress))
                with deadline(20):
                    await building.wait()
                group.cancel_scope.cancel()
        await writer.close()
        assert seen[0].table == "chunk"
        found = await store.inspect()
        assert found.index_kind == "vector"
        assert found.has_index
        if found.invalid_indexes:  # PostgreSQL may have undone the build already
            assert any("ragcore --schema ragcore index" in finding.message for finding in found.findings())
        built = await build_index(database[1], kind="halfvec", keep_seconds=0)
        assert built.index.kind == "halfvec"
        assert await indexes(database[1]) == {"chunk_embedding": ("halfvec_cosine_ops", True)}
        assert (await store.inspect()).invalid_indexes == ()


@anyio_test
async def test_of_two_builds_at_once_the_second_waits_for_the_first(database: tuple[str, str]) -> None:
    await made(database, "vector")
    built: list[IndexBuild] = []

    async def build() -> None:
        built.append(await build_index(database[1], kind="halfvec", keep_seconds=0))

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(build)
    assert sorted(one.built for one in built) == [(), ("chunk",)]


@anyio_test
async def test_a_build_continues_after_each_step(database: tuple[str, str]) -> None:
    """A run that ended between two steps leaves an index under another name."""
    await made(database, "vector")
    owner = await asyncpg.connect(database[1])
    vector = "vector_cosine_ops) with (m = 16, ef_construction = 64)"
    await owner.execute(f"create index chunk_embedding_old on ragcore.chunk using hnsw (embedding {vector}")
    half = Index(kind="halfvec").definition("ragcore.chunk", vector="public", dimension=DIMENSION)
    await owner.execute(f"create index chunk_embedding_new {half}")
    await owner.close()
    built = await build_index(database[1], kind="halfvec", keep_seconds=0)
    assert built.built == ()
    assert await indexes(database[1]) == {"chunk_embedding": ("halfvec_cosine_ops", True)}


@anyio_test
async def test_recall_is_measured_as_each_tenant(database: tuple[str, str]) -> None:
    await made(database, "binary")
    async with PgVectorStore(database[0], exact_rows=0) as store:
        await store.upsert(documents(1), tenant="a")
        await store.upsert(documents(2, count=4), tenant="b")
        measured = await store.measure_recall(sample=40)
        assert measured.complete
        assert measured.samples == 40
        assert measured.by_tenant.keys() == {"a", "b"}
        assert measured.recall == measured.indexed_recall == 1.0  # so few chunks are compared exactly in the end
        one = await store.measure_recall(sample=5, tenant="b", vectors=[embed_words("gold plan", DIMENSION)])
        assert (one.samples, one.by_tenant) == (1, {"b": 1.0})
        early = await store.measure_recall(sample=1_000, tenant="a", seconds=0.001)
        assert not early.complete
        with pytest.raises(InvalidInput, match="vectors need a tenant"):
            await store.measure_recall(vectors=[embed_words("gold", DIMENSION)])
        with pytest.raises(InvalidInput, match="sample is 0"):
            await store.measure_recall(sample=0)
    async with PgVectorStore(database[0]) as store:
        measured = await store.measure_recall(sample=10)
        assert (measured.exact, measured.indexed_recall, measured.index_ms) == (10, None, None)


@anyio_test
async def test_an_empty_collection_has_no_recall(database: tuple[str, str]) -> None:
    await made(database, "vector")
    async with PgVectorStore(database[0]) as store:
        measured = await store.measure_recall()
        assert (measured.recall, measured.samples, measured.complete) == (None, 0, True)


@anyio_test
@pytest.mark.parametrize("mode", MODES)
async def test_an_explanation_holds_no_texts_and_no_values(database: tuple[str, str], mode: str) -> None:
    await made(database, "halfvec")
    async with PgVectorStore(database[0], exact_rows=0) as store:
        await store.upsert(documents(1), tenant="tenant-secret")
        vector = None if mode == "text" else embed_words("gold", DIMENSION)
        asked = Query(
            question="gold claim",
            tenant="tenant-secret",
            mode=mode,  # type: ignore[arg-type]  # one of MODES
            top_k=3,
            vector=vector,
            filter=meta("year").eq(2_003) | meta("hidden").eq("value-secret"),
        )
        explanation = await store.explain(asked)
        shown = str(explanation) + explanation.plan
        for secret in ("secret", "hidden", "gold", "claim", "2003", "ragcore.tenant"):
            assert secret not in shown
        assert f"{explanation.milliseconds:.1f} ms" in str(explanation)
        assert explanation.uses_vector_index is (None if mode == "text" else True)
        assert explanation.rows_read > 0


@anyio_test
async def test_migrate_does_not_change_the_kind(database: tuple[str, str]) -> None:
    await made(database, "halfvec")
    await made(database, "halfvec")
    await migrate(database[1], model="fake", dimension=DIMENSION, role="ragcore")
    with pytest.raises(ConfigurationError, match=r"index of the kind 'halfvec'.*ragcore index"):
        await made(database, "binary")
    with pytest.raises(ConfigurationError, match="there is no collection 'other'"):
        await build_index(database[1], schema="other")


@anyio_test
@pytest.mark.parametrize(("dimension", "kind"), [(2_000, "vector"), (2_001, "halfvec"), (4_001, "binary")])
async def test_large_vectors_have_an_index(database: tuple[str, str], dimension: int, kind: IndexKind) -> None:
    index = Index(kind=kind)
    await migrate(database[1], model="fake", dimension=dimension, role="ragcore", index=index)
    assert [name for name, _ in (await indexes(database[1])).values()] == [index.operator_class]
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(30, dimension)).astype(np.float32)
    document = embedded("d", *(f"text {number}" for number in range(30)))
    async with PgVectorStore(database[0], exact_rows=0) as store:
        await store.upsert(
            [
                EmbeddedDocument(
                    document=document.document, content_hash="h", model="fake", chunks=document.chunks, vectors=vectors
                )
            ],
            tenant="a",
        )
        asked = Query(question="", tenant="a", mode="vector", top_k=3, vector=vectors[7])
        for _ in range(2):
            found = await store.search(asked)
            assert found[0].chunk_id == "d#7"
            assert found[0].score == pytest.approx(1.0, abs=1e-5)


def test_a_kind_has_a_largest_dimension() -> None:
    assert [default_kind(dimension) for dimension in (2_000, 2_001, 4_001)] == ["vector", "halfvec", "none"]
    with pytest.raises(
        ConfigurationError, match=r"holds at most 2,000 dimensions.*3,000: use halfvec or binary or none"
    ):
        Index(kind="vector").check_dimension(3_000)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "ivfflat"}, "must be one of vector, halfvec, binary, none"),
        ({"m": 1}, "m is 1: it must be from 2 to 100"),
        ({"m": 40}, r"ef_construction is 64: it must be from 80 \(twice m\)"),
        ({"ef_construction": 1_001}, "to 1,000"),
    ],
)
def test_parameters_are_checked(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Index(**values)  # type: ignore[arg-type]  # wrong on purpose


@anyio_test
async def test_memory_is_checked_before_it_is_sent(database: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="write it as PostgreSQL does"):
        await build_index(database[1], memory="2GB'; drop table x; --")

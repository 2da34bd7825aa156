"""Vectors of questions in real PostgreSQL: several processes, tenants, limits, erasure, and a database without the table."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import asyncpg
import numpy as np
import pytest

from ragcore import RAG, CachedEmbedder, Config, ConfigurationError, Document, MemoryStore, PgVectorStore, SharedVectors
from ragcore.events import Event, subscribe
from ragcore.protocols import VectorCache
from ragcore.resilience import flow
from ragcore.testing import FakeEmbedder, FakeGenerator
from ragcore.types.secret import Secret

from .contract import DIMENSION

pytestmark = [pytest.mark.system, pytest.mark.anyio]
KEY = Secret("a secret of a team")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(migrated: tuple[str, str]) -> AsyncIterator[PgVectorStore]:
    async with PgVectorStore(migrated[0]) as one:
        yield one


def vector(seed: int, dimension: int = DIMENSION) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)


def keys(count: int) -> list[bytes]:
    return [bytes([number]) * 32 for number in range(count)]


async def test_vectors_are_returned_bit_by_bit_and_only_to_their_tenant(store: PgVectorStore) -> None:
    assert isinstance(store, VectorCache)
    one, two, three = keys(3)
    given = {one: vector(1), two: vector(2)}
    await store.cache_vectors(given, tenant="t", seconds=60)
    found = await store.cached_vectors([three, two, one], tenant="t")
    assert set(found) == {one, two}
    assert all(np.array_equal(found[key], given[key]) and found[key].dtype == np.float32 for key in found)
    assert await store.cached_vectors([one, two], tenant="u") == {}
    # The same key of another tenant is another row; and a vector that is stored again replaces the old one.
    await store.cache_vectors({one: vector(3)}, tenant="u", seconds=60)
    await store.cache_vectors({one: vector(4)}, tenant="t", seconds=60)
    assert np.array_equal((await store.cached_vectors([one], tenant="u"))[one], vector(3))
    assert np.array_equal((await store.cached_vectors([one], tenant="t"))[one], vector(4))
    assert await store.clear_cached_vectors(tenant="t") == 2
    assert await store.cached_vectors([one, two], tenant="t") == {}
    assert len(await store.cached_vectors([one], tenant="u")) == 1


async def test_a_row_of_another_tenant_can_not_be_read_or_written(
    migrated: tuple[str, str], store: PgVectorStore
) -> None:
    await store.cache_vectors({keys(1)[0]: vector(1)}, tenant="t", seconds=60)
    connection = await asyncpg.connect(migrated[0])
    try:
        await connection.execute("select set_config('ragcore.tenant', 'u', false)")
        assert await connection.fetchval("select count(*) from ragcore.cached_vector") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("insert into ragcore.cached_vector values ('t', 'k', 'v', now())")
        assert await connection.execute("delete from ragcore.cached_vector") == "DELETE 0"
        await connection.execute("select set_config('ragcore.counting', 'on', false)")
        assert await connection.fetchval("select count(*) from ragcore.cached_vector") == 0
        await connection.execute("select set_config('ragcore.tenant', '', false)")
        with pytest.raises(asyncpg.PostgresError, match="tenant"):
            await connection.fetchval("select count(*) from ragcore.cached_vector")
    finally:
        await connection.close()
    assert len(await store.cached_vectors(keys(1), tenant="t")) == 1
    assert [one for one in (await store.inspect()).findings() if one.severity == "error"] == []


async def test_expired_vectors_are_not_found_and_are_removed(store: PgVectorStore) -> None:
    one, two, three = keys(3)
    await store.cache_vectors({one: vector(1)}, tenant="t", seconds=-1)
    await store.cache_vectors({one: vector(1), two: vector(2)}, tenant="u", seconds=-1)
    await store.cache_vectors({three: vector(3)}, tenant="u", seconds=60)
    assert await store.cached_vectors([one, two], tenant="u") == {}
    assert await store.trim_cached_vectors(most=None, at_once=2) == 2
    assert await store.trim_cached_vectors(most=None, at_once=2) == 1
    assert await store.trim_cached_vectors(most=None, at_once=2) == 0
    assert len(await store.cached_vectors([three], tenant="u")) == 1


async def test_the_command_that_removes_expired_documents_removes_expired_vectors(
    migrated: tuple[str, str], store: PgVectorStore
) -> None:
    await store.cache_vectors({key: vector(1) for key in keys(5)}, tenant="t", seconds=-1)
    assert await store.expire(limit=2) == {}
    connection = await asyncpg.connect(migrated[0])
    try:
        await connection.execute("select set_config('ragcore.tenant', 't', false)")
        assert await connection.fetchval("select count(*) from ragcore.cached_vector") == 0
    finally:
        await connection.close()


async def test_the_vectors_that_expire_first_are_removed_if_there_are_too_many(store: PgVectorStore) -> None:
    all_keys = keys(6)
    for number, key in enumerate(all_keys):
        await store.cache_vectors({key: vector(number)}, tenant=f"t{number % 2}", seconds=60 + number)
    assert await store.trim_cached_vectors(most=2, at_once=3) == 3
    assert await store.trim_cached_vectors(most=2, at_once=3) == 1
    left = [len(await store.cached_vectors(all_keys, tenant=tenant)) for tenant in ("t0", "t1")]
    assert left == [1, 1]
    assert len(await store.cached_vectors(all_keys[4:], tenant="t0")) == 1


async def test_writers_and_trims_at_the_same_time_lose_nothing_and_do_not_fail(store: PgVectorStore) -> None:
    async def write(number: int) -> None:
        for _ in range(5):
            await store.cache_vectors({key: vector(number) for key in reversed(keys(20))}, tenant="t", seconds=60)
            await store.trim_cached_vectors(most=1_000, at_once=10)

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(write, number)
    assert len(await store.cached_vectors(keys(20), tenant="t")) == 20


async def test_the_table_keeps_its_limit(store: PgVectorStore) -> None:
    behind = SharedVectors(store, key=KEY, max_bytes=10 * (4 * DIMENSION + 250))
    async with CachedEmbedder(FakeEmbedder(dimension=DIMENSION), behind=behind) as embedder:
        for start in range(0, 200, 20):
            with flow("t"):
                await embedder.embed([str(number) for number in range(start, start + 20)], kind="query")
            with anyio.fail_after(10):
                while behind._writing:
                    await anyio.sleep(0.005)
            behind._writes = 0  # trims with each write
    assert await store.clear_cached_vectors(tenant="t") <= 10


async def test_two_processes_embed_a_question_once_and_an_erased_tenant_has_no_vectors(
    migrated: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = [FakeEmbedder(dimension=DIMENSION), FakeEmbedder(dimension=DIMENSION)]
    made = iter(inner)
    monkeypatch.setattr("ragcore.client.rag.make_embedder", lambda config, policies: next(made))
    config = Config(dsn=Secret(migrated[0]), embedding_cache_key=KEY)
    clients = [RAG.from_config(config, generator=FakeGenerator()) for _ in inner]
    async with clients[0] as one, clients[1] as other:
        await one.add([Document("d", "The deductible is $1,500.")], tenant="m")
        before = len(inner[0].calls)
        assert (await one.ask("What is the deductible?", tenant="m")).found
        with anyio.fail_after(10):
            while await stored(migrated[0], "m") == 0:
                await anyio.sleep(0.01)
        assert (await other.ask("What is the deductible?", tenant="m")).found
        assert (len(inner[0].calls) - before, len(inner[1].calls)) == (1, 0)
        assert other.stats().caches["embedding"]["behind"]["hits"] == 1
        erased = await other.delete_tenant(tenant="m")
        assert erased.cached_vectors >= 2  # in the process's cache, and in the database
        assert await stored(migrated[0], "m") == 0


async def stored(dsn: str, tenant: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("select set_config('ragcore.tenant', $1, false)", tenant)
        return int(await connection.fetchval("select count(*) from ragcore.cached_vector"))
    finally:
        await connection.close()


async def test_without_the_table_a_process_embeds_its_questions_itself(
    migrated: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    owner = await asyncpg.connect(migrated[1])
    await owner.execute("drop table ragcore.cached_vector")
    await owner.close()
    seen: list[Event] = []
    unsubscribe = subscribe(seen.append)
    try:
        async with (
            PgVectorStore(migrated[0]) as store,
            CachedEmbedder(FakeEmbedder(dimension=DIMENSION), behind=SharedVectors(store, key=KEY)) as embedder,
        ):
            with flow("t"):
                assert len(await embedder.embed(["a"], kind="query")) == 1
    finally:
        unsubscribe()
    assert "cache.unshared" in [event.name for event in seen]
    assert "shared vectors are not available" in caplog.text


def test_a_store_that_can_not_keep_vectors_is_refused() -> None:
    config = Config(embedding_cache_key=KEY, embedding_model="local", models=("extractive",))
    with pytest.raises(ConfigurationError, match="RAGCORE_EMBEDDING_CACHE_KEY"):
        RAG.from_config(config, store=MemoryStore())

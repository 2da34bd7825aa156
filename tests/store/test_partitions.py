"""Partitions by a hash of the tenant: the same results, the same isolation, an index for each partition."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from ragcore import ConfigurationError, MemoryStore, PgVectorStore, meta
from ragcore.store import Index, build_index, copy_collection, migrate, share, unshare
from ragcore.store.postgres.index import IndexKind

from .contract import DIMENSION, MODES, PLAN, StoreContract, embedded, expiring, query

pytestmark = pytest.mark.system
anyio_test = pytest.mark.anyio
TENANTS = [f"t{number}" for number in range(12)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def made(
    database: tuple[str, str], *, partitions: int | None = 4, kind: IndexKind = "vector", schema: str = "ragcore"
) -> tuple[str, str]:
    await migrate(
        database[1],
        model="fake",
        dimension=DIMENSION,
        role="ragcore",
        schema=schema,
        index=Index(kind=kind),
        partitions=partitions,
    )
    return database


async def fill(store: PgVectorStore | MemoryStore) -> None:
    for tenant in TENANTS:
        texts = [f"gold plan copay {number} of {tenant}" for number in range(12)]
        await store.upsert(
            [embedded("plan", *texts, metadata={"year": 2024}), embedded("other", f"glasses of {tenant}")],
            tenant=tenant,
        )


class Partitioned(StoreContract):
    """The contract in a collection with partitions."""

    exact_rows: int | None = None

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, database: tuple[str, str]) -> AsyncIterator[PgVectorStore]:
        await made(database)
        async with PgVectorStore(database[0], exact_rows=self.exact_rows) as store:
            yield store


@pytest.mark.thorough
class TestExact(Partitioned):
    pass


@pytest.mark.thorough
class TestIndexed(Partitioned):
    exact_rows = 0


@anyio_test
@pytest.mark.parametrize("kind", ["vector", "binary"])
async def test_partitions_change_no_result(database: tuple[str, str], kind: IndexKind) -> None:
    await made(database, kind=kind)
    await share(database[1], "t0")
    memory = MemoryStore()
    memory.share("t0")
    async with memory, PgVectorStore(database[0]) as exact, PgVectorStore(database[0], exact_rows=0) as indexed:
        assert (await exact.inspect()).findings() == []
        await fill(exact)
        await fill(memory)
        for tenant in TENANTS[1:4]:
            for mode in MODES:
                asked = query("gold plan copay 3", tenant=tenant, mode=mode, top_k=3)
                # With a shared tenant, many scores are equal, so all chunks are compared and not their order.
                both = replace(asked, shared=("t0",), top_k=50)
                for one in (asked, replace(asked, filter=meta("year").eq(2024)), both):
                    right = [(p.chunk_id, p.shared) for p in await memory.search(one)]
                    for store in (exact, indexed, indexed):
                        found = [(p.chunk_id, p.shared) for p in await store.search(one)]
                        if one is both:
                            assert set(found) == set(right), (tenant, one)
                        else:
                            assert found == right, (tenant, one)
        inspected = await exact.inspect()
        assert (inspected.partitions, inspected.has_index) == (4, True)
        assert await exact.delete(["plan"], tenant="t3") == 1
        assert (await exact.count(tenant="t3")).chunks == 1
        assert (await exact.count(tenant=None)).chunks == 12 * 13 - 12
        measured = await indexed.measure_recall(sample=30)
        assert measured.recall == 1.0
        past = expiring(PLAN, datetime.now(UTC) - timedelta(seconds=1), "past")
        await exact.upsert([past], tenant="t5")
        assert await exact.expire() == {"t5": 1}


@anyio_test
async def test_a_partition_read_directly_shows_only_the_rows_of_the_tenant(database: tuple[str, str]) -> None:
    await made(database)
    async with PgVectorStore(database[0]) as store:
        await fill(store)
    plain = await asyncpg.connect(database[0])
    try:
        for number in range(4):
            with pytest.raises(asyncpg.PostgresError, match=r"ragcore\.tenant is not set"):
                await plain.fetch(f"select * from ragcore.chunk_p{number}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await plain.fetch(f"select * from ragcore.posting_p{number}")
            async with plain.transaction():
                await plain.execute("select set_config('ragcore.tenant', 't1', true)")
                rows = await plain.fetch(f"select tenant from ragcore.chunk_p{number}")
                assert {row["tenant"] for row in rows} <= {"t1"}
            for statement in ("delete from", "truncate", "drop table", "update"):
                changing = " set text = ''" if statement == "update" else ""
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await plain.execute(f"{statement} ragcore.chunk_p{number}{changing}")
    finally:
        await plain.close()


@anyio_test
async def test_a_partition_without_protection_is_found(database: tuple[str, str]) -> None:
    await made(database)
    owner = await asyncpg.connect(database[1])
    await owner.execute("alter table ragcore.chunk_p1 disable row level security")
    async with PgVectorStore(database[0]) as store:
        assert any("row-level security is not enabled" in one for one in (await store.inspect()).unsafe)
        await made(database)
        assert (await store.inspect()).unsafe == ()
        await owner.execute("create policy all_rows on ragcore.chunk_p2 using (true)")
        assert any("all_rows on ragcore.chunk_p2" in one for one in (await store.inspect()).unsafe)
    await owner.close()


@anyio_test
async def test_a_search_reads_one_partition(database: tuple[str, str]) -> None:
    await made(database)
    async with PgVectorStore(database[0]) as exact, PgVectorStore(database[0], exact_rows=0) as indexed:
        await fill(exact)
        used = set()
        for tenant in TENANTS:
            for store in (exact, indexed):
                await store.search(query("gold", tenant=tenant))
                plan = (await store.explain(query("gold", tenant=tenant))).plan
                read = {
                    f"chunk_p{number}" for number in range(4) if f'"Relation Name": "chunk_p{number}",\n' in _run(plan)
                }
                assert len(read) == 1, plan
                used |= read
    assert len(used) > 1


def _run(plan: str) -> str:
    """Return the nodes of a plan that were executed, one after another."""
    import json

    def nodes(node: dict[str, object]) -> list[dict[str, object]]:
        children = node.pop("Plans", [])
        assert isinstance(children, list)
        return [node, *(one for child in children for one in nodes(child))]

    return "\n".join(json.dumps(node, indent=1) for node in nodes(json.loads(plan)) if node.get("Actual Loops"))


@anyio_test
async def test_each_partition_gets_an_index_of_a_new_kind(database: tuple[str, str]) -> None:
    await made(database)
    async with PgVectorStore(database[0], exact_rows=0) as store:
        await fill(store)
        built = await build_index(database[1], kind="halfvec", keep_seconds=0)
        assert built.built == ("chunk_p0", "chunk_p1", "chunk_p2", "chunk_p3")
        owner = await asyncpg.connect(database[1])
        await owner.execute("drop index ragcore.chunk_p2_embedding")
        await owner.close()
        assert not (await store.inspect()).has_index
        assert (await build_index(database[1])).built == ("chunk_p2",)
        assert (await store.inspect()).has_index


@anyio_test
async def test_a_collection_is_copied_into_partitions(database: tuple[str, str]) -> None:
    await made(database, partitions=None, kind="halfvec", schema="old")
    for tenant in ("t0", "t1"):
        await share(database[1], tenant, schema="old")
    async with PgVectorStore(database[0], schema="old") as old:
        await fill(old)
        first = await copy_collection(database[1], source="old", target="new", role="ragcore", partitions=4)
        assert (first.documents, first.chunks, first.differing) == (24, 12 * 13, 0)
        await old.delete(["other"], tenant="t2")
        await old.upsert([embedded("plan", "a new plan", hash="2")], tenant="t3")
        await unshare(database[1], "t1", schema="old")
        again = await copy_collection(database[1], source="old", target="new", role="ragcore")
        assert (again.documents, again.chunks, again.differing) == (1, 1, 0)
        await old.upsert([embedded("late", "a late plan", hash="3")], tenant="t3")
        async with PgVectorStore(database[0], schema="new") as new:
            with pytest.raises(
                ConfigurationError, match="1 documents of .new. differ.*ragcore copy --from old --to new"
            ):
                await new.hashes(None, tenant="t3")
        assert await old.delete(["late"], tenant="t3") == 1
        asked = query("gold plan copay 3", tenant="t1", top_k=8)
        right = await old.search(asked)
    async with PgVectorStore(database[0], schema="new", exact_rows=0) as new:
        found = await new.search(asked)
        assert [p.chunk_id for p in found] == [p.chunk_id for p in right]
        assert [p.score for p in found] == pytest.approx([p.score for p in right])
        assert await new.search(query("glasses", tenant="t2", mode="text")) == []
        assert await new.shared_tenants() == ["t0"]
        inspected = await new.inspect()
        assert (inspected.partitions, inspected.index_kind) == (4, "halfvec")
    with pytest.raises(ConfigurationError, match="new is in use.*ragcore copy --from new --to old"):
        await copy_collection(database[1], source="old", target="new", role="ragcore")
    with pytest.raises(ConfigurationError, match=r"has no partitions, not 4: .*ragcore copy --from old"):
        await made(database, kind="halfvec", schema="old")


@pytest.mark.parametrize("partitions", [0, 1, 65, True, 2.5])
@anyio_test
async def test_the_number_of_partitions_is_checked(database: tuple[str, str], partitions: int) -> None:
    with pytest.raises(ConfigurationError, match="partitions is"):
        await made(database, partitions=partitions)

"""`PgVectorStore`: the contract of stores, and features and errors of PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import asyncpg
import numpy as np
import pytest

from ragcore import (
    ConfigurationError,
    InvalidInput,
    PgVectorStore,
    Query,
    RagcoreError,
    Retriever,
    Secret,
    StoreError,
    Vector,
    meta,
)
from ragcore.lifecycle.part import Part
from ragcore.resilience import Policy, deadline
from ragcore.store import migrate
from ragcore.store.postgres import Inspection, inspect
from ragcore.store.postgres.dsn import parse
from ragcore.store.postgres.statements import MIGRATIONS
from ragcore.testing import FakeEmbedder, FaultProxy, Hang
from ragcore.testing.fakes import embed_words
from tests.pace import in_time

from .contract import DIMENSION, PLAN, StoreContract, embedded, query

pytestmark = pytest.mark.system


class TestExact(StoreContract):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, migrated: tuple[str, str]) -> AsyncIterator[PgVectorStore]:
        async with PgVectorStore(migrated[0]) as made:
            yield made


@pytest.mark.thorough  # `test_elsewhere.TestBouncer` runs the contract through the index too
class TestIndexed(TestExact):
    """The contract through the HNSW index, for tenants of any size."""

    @pytest.fixture
    async def store(self, migrated: tuple[str, str]) -> AsyncIterator[PgVectorStore]:
        async with PgVectorStore(migrated[0], exact_rows=0) as made:
            yield made


@pytest.mark.thorough  # `test_elsewhere.TestBouncer` runs the contract behind a real pooler
class TestPooled(TestExact):
    """The contract without prepared statements, as behind a pooler in transaction mode."""

    @pytest.fixture
    async def store(self, migrated: tuple[str, str]) -> AsyncIterator[PgVectorStore]:
        async with PgVectorStore(migrated[0] + "&pgbouncer=true") as made:
            yield made


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(migrated: tuple[str, str]) -> AsyncIterator[PgVectorStore]:
    async with PgVectorStore(migrated[0]) as made:
        yield made


anyio_test = pytest.mark.anyio


@anyio_test
async def test_row_level_security_isolates_where_no_query_says_where(
    migrated: tuple[str, str], store: PgVectorStore
) -> None:
    await store.upsert([PLAN], tenant="a")
    await store.upsert([embedded("plan", "secret of b")], tenant="b")
    plain = await asyncpg.connect(migrated[0])
    try:
        for table in ("document", "chunk", "posting"):
            for statement in ("select * from", "delete from", "update"):
                changing = " set tenant = 'a'" if statement == "update" else ""
                with pytest.raises(asyncpg.PostgresError, match=r"ragcore.tenant is not set|permission denied"):
                    await plain.execute(f"{statement} ragcore.{table}{changing}")
        async with plain.transaction():
            await plain.execute("select set_config('ragcore.tenant', 'a', true)")
            assert {row["tenant"] for row in await plain.fetch("select * from ragcore.chunk")} == {"a"}
            assert await plain.execute("delete from ragcore.chunk where text like '%secret%'") == "DELETE 0"
            assert (
                await plain.execute("update ragcore.document set content_hash = 'x' where tenant = 'b'") == "UPDATE 0"
            )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with plain.transaction():
                await plain.execute("select set_config('ragcore.tenant', 'a', true)")
                await plain.execute(
                    "insert into ragcore.document (tenant, id, content_hash, model) values ('b', 'x', 'h', 'm')"
                )
        for statement in (
            "alter table ragcore.chunk disable row level security",
            "drop table ragcore.chunk",
            "set role postgres",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await plain.execute(statement)
    finally:
        await plain.close()
    assert (await store.count(tenant="b")).chunks == 1


@anyio_test
async def test_no_setting_stays_on_a_connection(migrated: tuple[str, str]) -> None:
    async with PgVectorStore(migrated[0], pool_size=1) as one:
        await one.upsert([PLAN], tenant="a")
        await one.search(query("deductible", mode="hybrid"))

        async def look(connection: asyncpg.Connection[asyncpg.Record]) -> None:
            assert await connection.fetchval("select current_setting('ragcore.tenant', true)") in (None, "")
            for setting, value in (("ef_search", "40"), ("iterative_scan", "off"), ("max_scan_tuples", "20000")):
                assert await connection.fetchval(f"select current_setting('hnsw.{setting}')") == value
            with pytest.raises(asyncpg.PostgresError, match="ragcore.tenant is not set"):
                await connection.fetch("select * from ragcore.chunk")

        await one._collection.call_directly(look, tenant="a")


@anyio_test
async def test_even_a_superuser_finds_only_the_tenants_chunks_through_the_store(
    migrated: tuple[str, str], store: PgVectorStore
) -> None:
    await store.upsert([PLAN], tenant="a")
    await store.upsert([embedded("other", "the deductible is 7777")], tenant="b")
    for exact_rows in (0, 5_000):
        async with PgVectorStore(migrated[1], exact_rows=exact_rows, allow_unsafe_role=True) as owner:
            for mode in ("vector", "text", "hybrid"):
                passages = await owner.search(query("deductible 7777", mode=mode))
                assert {passage.document_id for passage in passages} <= {"plan"}


@anyio_test
async def test_migrations_run_once_even_at_the_same_time(database: tuple[str, str]) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(lambda: migrate(database[1], model="fake", dimension=DIMENSION, role="ragcore"))
    owner = await asyncpg.connect(database[1])
    assert [row["number"] for row in await owner.fetch("select number from ragcore.migration order by 1")] == [
        number for number, _, _ in MIGRATIONS
    ]
    await owner.close()


@anyio_test
async def test_an_outdated_schema_is_reported_by_inspect_and_ping(migrated: tuple[str, str]) -> None:
    """If an operator forgets the migration of a new version, the health check reports that it is not ready."""
    owner = await asyncpg.connect(migrated[1])
    await owner.execute("drop function ragcore.is_of; delete from ragcore.migration where number = 3")
    await owner.close()
    async with PgVectorStore(migrated[0]) as store:
        assert [f.severity for f in (await store.inspect()).findings() if "migration 2" in f.message] == ["error"]
        with pytest.raises(ConfigurationError, match="run `ragcore migrate`"):
            await store.ping()
        large = replace(query("x"), vector=np.ones(1_000, np.float32))
        with pytest.raises(ConfigurationError, match="older than this version"):
            await store.search(large)
        await migrate(migrated[1], model="fake", dimension=DIMENSION, role="ragcore")
        await store.ping()
        assert await store.search(query("x")) == []


@anyio_test
async def test_a_schema_for_another_model_is_refused(migrated: tuple[str, str]) -> None:
    for model, dimension in (("other", DIMENSION), ("fake", 8)):
        with pytest.raises(ConfigurationError, match="was made for 'fake' with 64"):
            await migrate(migrated[1], model=model, dimension=dimension, role="ragcore")
    for bad in (0, 20_000, True):
        with pytest.raises(InvalidInput):
            await migrate(migrated[1], model="fake", dimension=bad, role="ragcore")


@anyio_test
async def test_migrating_needs_an_owner_and_a_role(database: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="create role nobody"):
        await migrate(database[1], model="fake", dimension=3, role="nobody")
    with pytest.raises(ConfigurationError):
        await migrate(database[0], model="fake", dimension=3, role="ragcore")
    owner = await asyncpg.connect(database[1])
    assert await owner.fetchval("select to_regnamespace('ragcore')") is None
    await owner.close()


@anyio_test
async def test_large_dimensions_are_stored_and_searched_exactly(database: tuple[str, str]) -> None:
    await migrate(database[1], model="big", dimension=3072, role="ragcore")
    rng = np.random.default_rng(0)
    document = replace(embedded("d", *(f"text {n}" for n in range(20))), model="big")
    vectors: Vector = rng.normal(size=(20, 3072)).astype(np.float32)
    object.__setattr__(document, "vectors", vectors)
    async with PgVectorStore(database[0], exact_rows=0) as store:
        await store.upsert([document], tenant="a")
        found = await store.search(Query(question="q", tenant="a", mode="vector", top_k=1, vector=vectors[7]))
    assert found[0].chunk_id == "d#7"


@anyio_test
async def test_a_document_goes_in_whole_or_not_at_all(store: PgVectorStore) -> None:
    await store.upsert([PLAN], tenant="a")
    broken = embedded("plan", "one", "two", hash="new")
    object.__setattr__(broken, "vectors", np.ones((2, 5), np.float32))
    with pytest.raises(ConfigurationError, match="different dimensions"):
        await store.upsert([embedded("good", "fine"), broken], tenant="a")
    assert await store.hashes(None, tenant="a") == {"plan": "h"}
    assert (await store.count(tenant="a")).chunks == 3


@anyio_test
async def test_vectors_that_are_not_embedded_or_zero_never_reach_a_result(
    migrated: tuple[str, str], store: PgVectorStore
) -> None:
    await store.upsert([embedded("d", "one", "two", "three")], tenant="a")
    owner = await asyncpg.connect(migrated[1])
    await owner.execute("update ragcore.chunk set embedding = null where id = 'd#0'")
    await owner.execute("update ragcore.chunk set embedding = array_fill(0::real, array[64])::vector where id = 'd#1'")
    await owner.close()
    assert [p.chunk_id for p in await store.search(query("three"))] == ["d#2"]
    assert list((await store.scores(embed_words("three", DIMENSION), tenant="a")).chunk_ids) == ["d#2"]
    assert (await store.count(tenant="a")).not_embedded == 1


@anyio_test
async def test_a_small_tenant_among_large_ones_is_found_through_the_index_too(migrated: tuple[str, str]) -> None:
    async with PgVectorStore(migrated[0], exact_rows=0) as indexed:
        await indexed.upsert(
            [embedded(f"big{n}", *(f"noise {n} {m}" for m in range(20))) for n in range(100)], tenant="big"
        )
        await indexed.upsert([embedded("small", *(f"needle {n}" for n in range(10)))], tenant="small")
        found = await indexed.search(query("needle 3", tenant="small", top_k=10))
    # Without iterative scans, the index would find none of them, since 2,000 of 2,010 rows belong to another tenant.
    assert len(found) >= 8
    assert found[0].chunk_id == "small#3"


@anyio_test
@pytest.mark.parametrize("dimension", [2_000, 2_001, 4_000, 4_001])
async def test_long_vectors_are_indexed_as_far_as_pgvector_does(database: tuple[str, str], dimension: int) -> None:
    """Vectors are indexed in full precision up to 2,000 dimensions, and in half precision up to 4,000. Above that, search is exact. Scores always
    have full precision."""
    await migrate(database[1], model="long", dimension=dimension, role="ragcore")
    random = np.random.default_rng(dimension)
    vectors = random.normal(size=(300, dimension)).astype(np.float32)
    documents = [replace(embedded(f"d{n}", "text"), vectors=vectors[n : n + 1], model="long") for n in range(300)]
    owner = await asyncpg.connect(database[1])
    async with PgVectorStore(database[0], exact_rows=0) as store, PgVectorStore(database[0], exact_rows=300) as exact:
        assert not [finding for finding in (await store.inspect()).findings() if "index" in finding.message]
        await store.upsert(documents, tenant="a")
        await owner.execute("analyze ragcore.chunk")  # autovacuum would do this within a minute
        for mode in ("vector", "hybrid"):
            for n in range(5):
                wanted = Query(question="other", tenant="a", mode=mode, top_k=5, vector=vectors[n] + vectors[n + 1])
                found, right = await store.search(wanted), await exact.search(wanted)
                assert {p.document_id for p in found[:2]} == {f"d{n}", f"d{n + 1}"}
                assert len({p.chunk_id for p in found} & {p.chunk_id for p in right}) >= 4
                assert [p.score for p in found[:2]] == pytest.approx([p.score for p in right[:2]], abs=1e-6)
    used = "select idx_scan from pg_stat_user_indexes where indexrelname = 'chunk_embedding'"
    with anyio.fail_after(10):  # a session reports its statistics when it ends
        while (scans := await owner.fetchval(used)) == 0:
            await anyio.sleep(0.05)
    await owner.close()
    # Of 300 rows, a hybrid search reads 40 candidates, and a tenant's first search reads 50. For so many candidates, the planner may choose a scan instead.
    assert scans is None if dimension > 4_000 else scans >= 3


@anyio_test
async def test_count_all_returns_only_numbers(store: PgVectorStore) -> None:
    await store.upsert([PLAN], tenant="a")
    await store.upsert([PLAN], tenant="b")
    counts = await store.count(tenant=None)
    assert (counts.documents, counts.chunks, counts.not_embedded) == (2, 6, 0)


@anyio_test
async def test_start_logs_problems_of_the_role(migrated: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    owner = await asyncpg.connect(migrated[1])
    await owner.execute("create role bypasses login bypassrls")
    await owner.execute("create role owns login")
    try:
        await owner.execute("grant ragcore to bypasses, owns")
        for table in ("document", "chunk", "setting", "migration"):
            await owner.execute(f"alter table ragcore.{table} owner to owns")
        expected = {
            "ragcore": "",
            "postgres": "is a superuser",
            "bypasses": "has BYPASSRLS",
            "owns": "owns ragcore's tables",
        }
        for role, said in expected.items():
            caplog.clear()
            async with PgVectorStore(migrated[0].replace("ragcore@", f"{role}@")) as store:
                found = (await store.inspect()).findings()
                await _idle(store)
            assert (said in caplog.text, [said in finding.message for finding in found]) == (
                True,
                [True] if said else [],
            )
    finally:
        for table in ("document", "chunk", "setting", "migration"):
            await owner.execute(f"alter table ragcore.{table} owner to postgres")
        await owner.execute("drop role bypasses; drop role owns")
        await owner.close()


async def _idle(part: Part) -> None:
    """Wait until the background work of a component is done."""
    with anyio.fail_after(5):
        while part._owner is not None and part._owner.running:
            await anyio.sleep(0.01)


@anyio_test
async def test_start_logs_that_embedder_and_store_do_not_fit(
    migrated: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    for dimension, said in ((DIMENSION, ""), (8, "was made for 64 dimensions (fake), and the embedder fake has 8")):
        caplog.clear()
        async with Retriever(store=PgVectorStore(migrated[0]), embedder=FakeEmbedder(dimension=dimension)) as retriever:
            await _idle(retriever)
            assert (said in caplog.text, bool(caplog.text)) == (True, bool(said))


@anyio_test
async def test_a_wrong_password_is_a_configuration_error_and_is_never_shown(
    server: tuple[str, str], migrated: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    owner = await asyncpg.connect(migrated[1])
    rules = Path(server[0].partition("host=")[2]) / "ragcore_hba.conf"
    before = rules.read_text()
    await owner.execute("create role locked login password 'right'")
    try:
        rules.write_text(f"local all locked scram-sha-256\n{before}")
        await owner.execute("select pg_reload_conf()")
        dsn = migrated[0].replace("ragcore@", "locked:canary@")
        async with PgVectorStore(dsn) as store:
            with pytest.raises(ConfigurationError, match="refused the login of locked") as caught:
                await store.search(query("q"))
            await _idle(store)
        shown = f"{caught.value!r} {caught.value} {caplog.text} {store!r} {store.describe()} {store.policy.snapshot()}"
        assert "canary" not in shown
        with pytest.raises(ConfigurationError, match="refused the login of locked"):
            await migrate(dsn, model="fake", dimension=DIMENSION, role="ragcore")
    finally:
        rules.write_text(before)
        await owner.execute("select pg_reload_conf()")
        await owner.execute("drop role locked")
        await owner.close()


class Elsewhere:
    """An embedder whose model or dimension may differ from the store's."""

    def __init__(self, model: str, dimension: int) -> None:
        self.model, self.dimension, self.max_tokens = model, dimension, 10


@anyio_test
async def test_an_embedder_that_does_not_fit_is_found(store: PgVectorStore) -> None:
    found = await store.inspect()
    assert found.findings(Elsewhere("fake", DIMENSION)) == []  # type: ignore[arg-type]
    assert "64 dimensions" in found.findings(Elsewhere("fake", 8))[0].message  # type: ignore[arg-type]
    assert "two models" in found.findings(Elsewhere("other", DIMENSION))[0].message  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said", "kind"),
    [
        (("/test_", "/missing_"), "does not exist", ConfigurationError),
        (("ragcore@", "nobody:canary@"), "refused the login of nobody", ConfigurationError),
        (("host=", "host=/nowhere"), "can't be reached", StoreError),
    ],
)
@anyio_test
async def test_errors_of_the_dsn_are_named_without_the_password(
    database: tuple[str, str], change: tuple[str, str], said: str, kind: type[RagcoreError]
) -> None:
    dsn = database[0].replace(*change)
    async with PgVectorStore(dsn, policy=Policy(retry=False)) as store:
        with pytest.raises(kind, match=said) as caught:
            await store.search(query("q"))
    assert "canary" not in str(caught.value) + repr(store.describe())


@anyio_test
async def test_a_missing_schema_or_extension_is_reported_with_a_command(database: tuple[str, str]) -> None:
    async with PgVectorStore(database[0]) as store:
        with pytest.raises(ConfigurationError, match="create extension vector"):
            await store.search(query("q"))
        assert [finding.severity for finding in (await _inspect_plainly(database[0])).findings()] == ["error", "error"]
        owner = await asyncpg.connect(database[1])
        await owner.execute("create extension vector")
        await owner.close()
        with pytest.raises(ConfigurationError, match=r"store\.migrate"):
            await store.search(query("q"))


async def _inspect_plainly(dsn: str) -> Inspection:
    connection = await asyncpg.connect(dsn)
    try:
        return await inspect(connection, parse(dsn))
    finally:
        await connection.close()


@pytest.mark.parametrize("dsn", ["", "mysql://x", "host=localhost dbname=x", "postgresql://u:canary@h:port/x"])
def test_an_invalid_dsn_is_refused_at_once(dsn: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PgVectorStore(Secret(dsn))
    assert "canary" not in str(caught.value)


def test_options_are_checked() -> None:
    for bad in ({"pool_size": 0}, {"ef_search": 0}, {"ef_search": 2_000}):
        with pytest.raises(ConfigurationError):
            PgVectorStore("postgresql://h/d", **bad)  # type: ignore[arg-type]


@anyio_test
async def test_start_and_close_are_quick_while_the_database_never_responds(server: tuple[str, str]) -> None:
    socket = server[0].split("host=")[1]
    async with FaultProxy(f"{socket}/.s.PGSQL.5432") as proxy:
        proxy.faults.always(Hang())
        dsn = f"postgresql://ragcore@127.0.0.1:{proxy.port}/ragcore"
        began = anyio.current_time()
        store = PgVectorStore(dsn)
        await store.start()
        assert in_time(anyio.current_time() - began, 0.5)
        with pytest.raises(RagcoreError):
            with deadline(0.3):
                await store.search(query("q"))
        assert in_time(anyio.current_time() - began, 1.0)
        await store.aclose()
        assert in_time(anyio.current_time() - began, 4.0)


@anyio_test
async def test_a_cancelled_search_gives_its_connection_back(migrated: tuple[str, str]) -> None:
    async with PgVectorStore(migrated[0], pool_size=2) as store:
        await store.upsert([PLAN], tenant="a")
        for seconds in (0.0001, 0.0005, 0.001, 0.002, 0.005):
            for _ in range(5):
                with anyio.move_on_after(seconds):
                    await store.search(query("deductible"))
        assert len(await store.search(query("deductible"))) == 3
        bulkhead = store.policy.bulkhead
        assert bulkhead is not None
        assert (bulkhead.inside, store.snapshot()["in_use"]) == (0, 0)


@anyio_test
async def test_an_owner_who_is_no_superuser_can_migrate(database: tuple[str, str]) -> None:
    admin = await asyncpg.connect(database[1])
    name = await admin.fetchval("select current_database()")
    await admin.execute(f"create role owner_of_{name} login; create extension vector")
    await admin.execute(f"alter database {name} owner to owner_of_{name}")
    await admin.close()
    await migrate(
        database[1].replace("postgres@", f"owner_of_{name}@"), model="fake", dimension=DIMENSION, role="ragcore"
    )
    async with PgVectorStore(database[0]) as store:
        await store.upsert([PLAN], tenant="a")
        assert (await store.count(tenant=None)).chunks == 3
        assert (await store.inspect()).findings() == []


@anyio_test
async def test_many_values_are_one_parameter_and_too_large_values_are_invalid(store: PgVectorStore) -> None:
    await store.upsert([PLAN], tenant="a")
    many = meta("year").in_([*range(40_000), "x", True])
    assert len(await store.search(query("deductible", filter=many))) == 3
    assert len(await store.search(query("deductible", filter=meta("kind").in_(["plan", 7])))) == 3
    assert store.policy.snapshot()["breaker"]["failure"] == 0


@anyio_test
async def test_a_filter_that_few_of_many_chunks_pass_finds_them_all(migrated: tuple[str, str]) -> None:
    async with PgVectorStore(migrated[0], exact_rows=50) as store:
        await store.upsert([embedded(f"big{n}", *(f"noise {n} {m}" for m in range(20))) for n in range(20)], tenant="a")
        await store.upsert(
            [embedded("gold", *(f"needle {n}" for n in range(10)), metadata={"plan": "gold"})], tenant="a"
        )
        await store.search(query("noise"))
        for mode in ("vector", "hybrid"):
            found = await store.search(query("noise 3 3", top_k=10, mode=mode, filter=meta("plan").eq("gold")))
            assert len(found) == 10


@anyio_test
async def test_a_cancelled_transaction_does_not_wait_for_a_frozen_server(migrated: tuple[str, str]) -> None:
    owner = await asyncpg.connect(migrated[1])
    pids = "select pid from pg_stat_activity where backend_type = 'client backend' and usename = 'ragcore'"
    async with PgVectorStore(migrated[0], pool_size=1) as store:
        await store.upsert([PLAN], tenant="a")
        frozen = [row["pid"] for row in await owner.fetch(pids)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            task = asyncio.ensure_future(store.delete(["plan"], tenant="a"))
            await asyncio.sleep(0.2)
            began = anyio.current_time()
            task.cancel()
            await asyncio.wait([task], timeout=8)
            assert task.cancelled()
            assert in_time(anyio.current_time() - began, 2)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        assert await store.delete(["plan"], tenant="a") == 1
    await owner.close()


@anyio_test
async def test_row_level_security_that_is_switched_off_is_reported(
    migrated: tuple[str, str], store: PgVectorStore
) -> None:
    owner = await asyncpg.connect(migrated[1])
    await owner.execute("alter table ragcore.document disable row level security")
    await owner.close()
    assert "row-level security is not enabled" in (await store.inspect()).findings()[0].message


@anyio_test
async def test_a_ping_looks_for_the_schema_until_it_has_seen_it(database: tuple[str, str]) -> None:
    plain, owner = database
    async with PgVectorStore(plain) as store:
        with pytest.raises(ConfigurationError, match="create extension vector"):
            await store.ping()
        admin = await asyncpg.connect(owner)
        await admin.execute("create extension vector")
        await admin.close()
        with pytest.raises(ConfigurationError, match="ragcore migrate"):
            await store.ping()
        await migrate(owner, model="fake", dimension=8, role="ragcore")
        await store.ping()
        found = await store.inspect()
        assert found.is_complete
        assert len(found.fingerprint or "") == 32

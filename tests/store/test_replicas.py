"""Reads from replicas: a real primary and real standbys, which are killed, paused, promoted and started again."""

from __future__ import annotations

import collections
import math
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import anyio
import asyncpg
import pytest
from benchmarks.scenarios.faults import Cell, run_cell
from hypothesis import given
from hypothesis import strategies as st

from ragcore import (
    RAG,
    Config,
    ConfigurationError,
    EmbeddedDocument,
    ExtractiveGenerator,
    PgVectorStore,
    RagcoreError,
    Retriever,
    Searcher,
    StoreError,
    Table,
    TableStore,
)
from ragcore.resilience import deadline
from ragcore.store import migrate
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.dsn import parse_each
from ragcore.store.postgres.recent_writes import RecentWrites
from ragcore.testing import FakeEmbedder, FaultProxy
from ragcore.types.secret import Secret
from tests.support.bench import Bench
from tests.support.bench import client as bench_client
from tests.support.matrix import _WIRE, matrix
from tests.support.servers import DIMENSION as SERVERS_DIMENSION
from tests.support.servers import servers
from tests.support.standby import ROLE, Nodes, begin, end, nodes

from .contract import DIMENSION, LETTER, OLD, PLAN, StoreContract, ids, query
from .contract import embedded as document

system = [
    pytest.mark.system,
    pytest.mark.blocking_allowed,
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]


T = TypeVar("T")


def on_servers(test: T) -> T:
    marked: Any = test
    for mark in system:
        marked = mark(marked)
    return cast("T", marked)


@pytest.fixture(scope="module")
def shared() -> Iterator[Nodes]:
    """A primary with one standby for all tests that stop neither."""
    made = anyio.run(partial(begin, dimension=DIMENSION))
    yield made
    anyio.run(end, made)


@pytest.fixture
async def fresh(shared: Nodes) -> AsyncIterator[str]:
    """The name of a migrated, empty database, which the standby has as well."""
    name = f"test_{os.urandom(6).hex()}"
    await shared.primary.execute(f"create database {name}")
    await migrate(shared.primary.dsn("postgres", database=name), model="fake", dimension=DIMENSION, role="ragcore")
    await shared.caught_up()
    yield name
    await shared.primary.execute(f"drop database {name} with (force)")


class Replayed(PgVectorStore):
    """Waits after each write until the standby has it, so that all reads of the contract can go there."""

    made: Nodes

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        await super().upsert(documents, tenant=tenant)
        await self.made.caught_up()

    async def delete(self, document_ids: Sequence[str], /, *, tenant: str) -> int:
        deleted = await super().delete(document_ids, tenant=tenant)
        await self.made.caught_up()
        return deleted


@pytest.mark.system
@pytest.mark.blocking_allowed
@pytest.mark.thorough
class TestContractOnAReplica(StoreContract):
    """The contract of every store, with all searches on the standby."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, shared: Nodes, fresh: str) -> AsyncIterator[PgVectorStore]:
        dsn = shared.primary.dsn(database=fresh)
        async with Replayed(dsn, read_dsn=shared.read_dsn(fresh), read_your_writes=0) as made:
            made.made = shared
            yield made
            assert made.policy.snapshot().retries == 0
            (replica,) = made.read_policies.values()
            assert replica.snapshot()["breaker"]["failure"] == 0


@asynccontextmanager
async def opened(made: Nodes, database: str, **options: object) -> AsyncIterator[PgVectorStore]:
    dsn = made.primary.dsn(database=database)
    async with PgVectorStore(dsn, **{"read_dsn": made.read_dsn(database), **options}) as store:  # type: ignore[arg-type]
        yield store


def reads(store: PgVectorStore) -> int:
    """Number of reads that the replicas answered."""
    return sum(policy.snapshot()["breaker"]["success"] for policy in store.read_policies.values())


def reads_of_primary(store: PgVectorStore) -> int:
    return store.policy.snapshot().calls


async def until_read_from_a_replica(store: PgVectorStore, tenant: str = "a") -> None:
    """Search until a replica answers."""
    before = reads(store)
    with anyio.fail_after(20):
        while reads(store) == before:
            await store.search(query("deductible", tenant=tenant))
            await anyio.sleep(0.01)


@on_servers
async def test_searches_go_to_the_replica_and_all_that_ingestion_reads_comes_from_the_primary(
    shared: Nodes, fresh: str
) -> None:
    async with opened(shared, fresh) as store:
        await store.upsert([PLAN, OLD], tenant="a")
        await until_read_from_a_replica(store)
        primary, replica = reads_of_primary(store), reads(store)
        passages = await store.search(query("the deductible is 1500", mode="hybrid"))
        await store.scores(query("deductible").vector, tenant="a")  # type: ignore[arg-type]
        await store.adjacent(passages, tenant="a", distance=1)
        assert (reads_of_primary(store), reads(store)) == (primary, replica + 3)
        assert (await store.diagnose(query("deductible"))).chunks == 5
        assert await store.hashes(None, tenant="a") == {"plan": "h", "old": "h"}
        assert (await store.count(tenant="a")).documents == 2
        await store.recorded_embed_text()
        assert (reads_of_primary(store), reads(store)) == (primary + 3, replica + 3)


@on_servers
async def test_reads_see_the_writes_of_this_process_while_the_replica_lags(shared: Nodes, fresh: str) -> None:
    (standby,) = shared.standbys
    async with opened(shared, fresh) as store, opened(shared, fresh, read_your_writes=0) as careless:
        await store.upsert([PLAN], tenant="a")
        await store.upsert([PLAN], tenant="b")
        await until_read_from_a_replica(store)
        await standby.execute("select pg_wal_replay_pause()")
        try:
            for number in range(5):
                await store.upsert([document(f"new{number}", f"fact{number} is new")], tenant="a")
                assert await ids(store, query(f"fact{number}", mode="text")) == [f"new{number}#0"]
                await store.delete([f"new{number}"], tenant="a")
                assert await ids(store, query(f"fact{number}", mode="text")) == []
            await store.upsert([OLD], tenant="a")
            # Another tenant was not written, so the replica answers its reads.
            before = reads(store)
            assert len(await store.search(query("deductible", tenant="b"))) == 3
            assert reads(store) == before + 1
            # This shows that the replica lags, so the assertions above can fail.
            assert "old#0" not in await ids(careless, query("deductible"))
            assert "old#0" in await ids(store, query("deductible"))
            assert reads(store) == before + 1
        finally:
            await standby.execute("select pg_wal_replay_resume()")
        await until_read_from_a_replica(store)
        assert "old#0" in await ids(store, query("deductible"))


@on_servers
async def test_a_write_is_remembered_for_a_limited_time(shared: Nodes, fresh: str) -> None:
    (standby,) = shared.standbys
    async with opened(shared, fresh, read_your_writes=0.5) as store:
        await store.upsert([PLAN], tenant="a")
        await until_read_from_a_replica(store)
        await standby.execute("select pg_wal_replay_pause()")
        try:
            await store.upsert([OLD], tenant="a")
            await until_read_from_a_replica(store)
            assert "old#0" not in await ids(store, query("deductible"))
        finally:
            await standby.execute("select pg_wal_replay_resume()")


@on_servers
async def test_a_read_that_delays_the_replay_is_answered_by_the_primary(shared: Nodes, fresh: str) -> None:
    """The standby cancels a statement that needs rows which the primary has vacuumed: a conflict with recovery."""
    asked: list[bool] = []

    async with opened(shared, fresh) as store:
        await store.upsert([PLAN, OLD], tenant="a")
        await until_read_from_a_replica(store)

        async def slow(connection: PooledConnection) -> bool:
            asked.append(bool(await connection.fetchval("select pg_is_in_recovery()")))
            if asked[-1]:
                async with connection.transaction(isolation="repeatable_read"):
                    await connection.execute("select set_config('ragcore.tenant', 'a', true)")
                    await connection.fetchval("select count(*) from ragcore.document")
                    while True:
                        await connection.fetchval("select pg_sleep(0.05)")
            return asked[-1]

        async def vacuum() -> None:
            owner = await asyncpg.connect(shared.primary.dsn("postgres", database=fresh))
            while len(asked) < 2:
                await owner.execute("update ragcore.document set content_hash = content_hash")
                await owner.execute("vacuum ragcore.document")
                await anyio.sleep(0.05)
            await owner.close()

        async with anyio.create_task_group() as group:
            group.start_soon(vacuum)
            with anyio.fail_after(20):
                assert not await store._collection.read(slow, stage="search", tenants=("a",))
        assert asked == [True, False]
        (policy,) = store.read_policies.values()
        assert policy.snapshot()["breaker"]["failure"] == 0


@on_servers
async def test_a_replica_that_hangs_leaves_time_for_the_primary_and_is_used_again(shared: Nodes, fresh: str) -> None:
    (standby,) = shared.standbys
    async with FaultProxy(standby.socket) as wire:
        replica = f"postgresql://ragcore@127.0.0.1:{wire.port}/{fresh}"
        async with opened(shared, fresh, read_dsn=replica) as store:
            await store.upsert([PLAN], tenant="a")
            await until_read_from_a_replica(store)
            wire.freeze()
            policy = store.read_policies[f"127.0.0.1:{wire.port}/{fresh}"]
            with anyio.fail_after(30):
                while policy.breaker().state == "closed":  # type: ignore[union-attr]
                    with deadline(1):
                        assert len(await store.search(query("deductible"))) == 3
            wire.thaw()
            await until_read_from_a_replica(store)


@on_servers
async def test_a_read_does_not_wait_for_a_replica_without_free_places_while_the_primary_has_some(
    shared: Nodes, fresh: str
) -> None:
    async with opened(shared, fresh, pool_size=1) as store:
        await store.upsert([PLAN], tenant="a")
        await until_read_from_a_replica(store)
        busy, done = anyio.Event(), anyio.Event()

        async def hold(connection: PooledConnection) -> None:
            assert await connection.fetchval("select pg_is_in_recovery()")
            busy.set()
            await done.wait()

        async with anyio.create_task_group() as group:
            read = store._collection.read
            group.start_soon(partial(read, hold, stage="search", tenants=("a",)))
            await busy.wait()
            before = reads_of_primary(store)
            with deadline(4):
                assert len(await store.search(query("deductible"))) == 3
            assert reads_of_primary(store) == before + 1
            done.set()


@on_servers
async def test_a_superuser_of_the_replica_is_refused_and_the_primary_answers(shared: Nodes, fresh: str) -> None:
    (standby,) = shared.standbys
    async with opened(shared, fresh, read_dsn=standby.dsn("postgres", database=fresh)) as store:
        await store.upsert([PLAN], tenant="a")
        await shared.caught_up()
        for _ in range(10):
            assert len(await store.search(query("deductible"))) == 3
        assert reads(store) == 0
        errors = [finding.message for finding in (await store.inspect()).findings() if finding.severity == "error"]
        assert len(errors) == 1
        assert "the replica" in errors[0]
        assert "superuser" in errors[0]


@on_servers
async def test_the_first_look_finds_nothing_wrong_on_a_standby(
    shared: Nodes, fresh: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(shared, fresh) as store:
        await store.first_look()
        for server in store._collection._servers:
            await server.looked.wait()
        found = await store.inspect()
    messages = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert [message for message in messages if "replica" in message or "standby" in message] == [
        message for message in messages if "previous release" in message and "replica" in message
    ]
    assert found.replicas[0].in_recovery
    assert found.replicas[0].lag_bytes is not None
    assert not any("standby" in finding.message for finding in found.findings())


def client(store: PgVectorStore) -> RAG:
    retriever = Retriever(store=store, embedder=FakeEmbedder(dimension=DIMENSION))
    return RAG(retriever=retriever, generator=ExtractiveGenerator())


async def load(store: Searcher, counter: collections.Counter[str], stop: anyio.Event) -> None:
    """Search again and again, each with a deadline of 5 s."""
    while not stop.is_set():
        try:
            with deadline(5):
                assert len(await store.search(query("deductible"))) == 5
            counter["answered"] += 1
        except RagcoreError as error:
            counter[f"{type(error).__name__}: {error}"] += 1
        await anyio.sleep(0.01)


@asynccontextmanager
async def under_load(store: Searcher, callers: int = 8) -> AsyncIterator[collections.Counter[str]]:
    counter: collections.Counter[str] = collections.Counter()
    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        for _ in range(callers):
            group.start_soon(load, store, counter, stop)
        yield counter
        stop.set()


def answered(counter: collections.Counter[str]) -> float:
    return counter["answered"] / counter.total()


async def writes_come_back(store: PgVectorStore | TableStore) -> None:
    """Write until the promoted server accepts it."""
    with anyio.fail_after(20):
        while True:
            try:
                with deadline(5):
                    await store.upsert([LETTER], tenant="b")
                break
            except RagcoreError:
                await anyio.sleep(0.05)
    assert await ids(store, query("glasses", tenant="b", mode="text")) == ["letter#0"]


@on_servers
async def test_reads_go_on_while_a_standby_and_the_primary_are_killed_and_writes_after_the_promotion() -> None:
    async with nodes(dimension=DIMENSION, standbys=2) as made:
        first, second = made.standbys
        dsn, read_dsn = made.any_primary(), made.read_dsn()
        async with PgVectorStore(dsn, read_dsn=read_dsn) as store, client(store) as rag:
            await store.upsert([PLAN, OLD], tenant="a")
            await until_read_from_a_replica(store)
            counts = [policy.snapshot().calls for policy in store.read_policies.values()]
            async with under_load(store) as counter:
                await anyio.sleep(0.5)
                # Both standbys answer.
                shares = [p.snapshot().calls - n for p, n in zip(store.read_policies.values(), counts, strict=True)]
                assert min(shares) > 0.2 * sum(shares)
                await first.stop()
                await anyio.sleep(1.5)
                assert answered(counter) >= 0.95, counter
                health = await rag.health()
                assert health.details["database"]["replicas"][f"{second.folder}/ragcore"] == "healthy"
                assert health.details["database"]["replicas"][f"{first.folder}/ragcore"] != "healthy"
                assert (health.status, health.ready) == ("degraded", True)
                await first.start()
                policy = store.read_policies[f"{first.folder}/ragcore"]
                before = policy.snapshot()["breaker"]["success"]
                with anyio.fail_after(20):
                    while policy.snapshot()["breaker"]["success"] == before:
                        await anyio.sleep(0.05)
                counter.clear()
                await made.primary.stop()
                with pytest.raises(RagcoreError), deadline(2):
                    await store.upsert([LETTER], tenant="b")
                await anyio.sleep(1)
                assert answered(counter) >= 0.95, counter
                await anyio.sleep(1)  # the result of a health check is kept for a second
                health = await rag.health()
                assert (health.services["database"], health.ready) == ("degraded", True)
                assert "replicas answer searches" in health.details["database"]["reason"]
                counter.clear()
                await first.promote()
                await writes_come_back(store)
                await anyio.sleep(0.5)
                assert answered(counter) >= 0.95, counter
            messages = [finding.message for finding in (await store.inspect()).findings()]
            assert any(str(first.folder) in message and "no standby" in message for message in messages)


# A table that another program made, and its mapping.
NOTES = f"""
    create table notes (
        id text primary key, document_id text not null, position integer not null, text text not null, title text, metadata jsonb,
        tenant text not null, embedding vector({DIMENSION})
    )
"""
MAPPING = Table(
    table="notes", document="document_id", order="position", title="title", metadata="metadata", tenant="tenant", exact=True, isolation="where",
    writable=True,
)  # fmt: skip


@on_servers
@pytest.mark.thorough
async def test_an_existing_table_is_read_and_written_on_while_servers_are_killed_and_promoted() -> None:
    """The driver takes another server of the DSN. One store reads from any server, a second one writes to the primary."""
    async with nodes(dimension=DIMENSION, standbys=2) as made:
        first, second = made.standbys
        await made.primary.execute(NOTES)
        await made.primary.execute(f"grant select, insert, delete on notes to {ROLE}")
        reading = made.any_primary().replace("read-write", "prefer-standby")
        async with TableStore(made.any_primary(), MAPPING) as writer, TableStore(reading, MAPPING) as reader:
            await writer.upsert([PLAN, OLD], tenant="a")
            await made.caught_up()
            assert len(await reader.search(query("deductible"))) == 5
            async with under_load(reader) as counter:
                for standby in (first, second):
                    await anyio.sleep(0.5)
                    await standby.stop()
                    await anyio.sleep(1.5)
                    assert answered(counter) >= 0.95, counter
                    counter.clear()
                    await standby.start()
                await made.caught_up()
                await made.primary.stop()
                with pytest.raises(RagcoreError), deadline(2):
                    await writer.upsert([LETTER], tenant="b")
                await anyio.sleep(1)
                assert answered(counter) >= 0.95, counter
                counter.clear()
                await first.promote()
                await writes_come_back(writer)
                await anyio.sleep(0.5)
                assert answered(counter) >= 0.95, counter


@on_servers
async def test_if_the_primary_is_gone_a_replica_that_lags_answers_nevertheless() -> None:
    async with nodes(dimension=DIMENSION) as made:
        (standby,) = made.standbys
        async with PgVectorStore(made.primary.dsn(), read_dsn=made.read_dsn()) as store:
            await store.upsert([PLAN], tenant="a")
            await until_read_from_a_replica(store)
            await standby.execute("select pg_wal_replay_pause()")
            await store.upsert([OLD], tenant="a")
            assert "old#0" in await ids(store, query("deductible"))
            await made.primary.stop()
            with deadline(5):
                assert len(await store.search(query("deductible"))) == 3
            await standby.stop()
            with pytest.raises(StoreError, match="can't be reached"), deadline(5):
                await store.search(query("deductible"))


@on_servers
async def test_a_client_starts_and_answers_while_the_primary_is_down() -> None:
    async with nodes(dimension=DIMENSION) as made:
        async with PgVectorStore(made.primary.dsn()) as store:
            await store.upsert([PLAN], tenant="a")
        await made.caught_up()
        await made.primary.stop()
        async with PgVectorStore(made.primary.dsn(), read_dsn=made.read_dsn()) as store, client(store) as rag:
            look = await store.first_look()
            assert look is not None
            assert look.in_recovery
            assert len(await store.search(query("deductible"))) == 3
            assert (await rag.ask("What is the deductible?", tenant="a")).found
            stats = rag.stats()
            assert [name for name in stats.policies if name.startswith("replica ")]
            assert stats.pools["store"]["replicas"][f"{made.standbys[0].folder}/ragcore"]["breaker"] == "closed"


# The faults of the wire, and those that a superuser causes on either server.
AT_ONCE = 10
ON_EITHER = (
    "refused",
    "frozen",
    "black hole in mid-query",
    "statements cancelled",
    "sessions terminated",
    "restart in flight",
)


@on_servers
@pytest.mark.thorough
@pytest.mark.usefixtures("asyncpgs_noise")
async def test_every_fault_of_the_search_passes_on_the_primary_and_on_the_standby() -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        made = await enter(nodes(dimension=SERVERS_DIMENSION))
        (standby,) = made.standbys
        around = await enter(servers(made.primary.dsn("postgres"), made.primary.dsn()))
        wire = await enter(FaultProxy(standby.socket))
        read_dsn = f"postgresql://ragcore@127.0.0.1:{wire.port}/ragcore"
        started = await enter(bench_client(around.addresses, reranks=True, read_dsn=read_dsn))
        await made.caught_up()
        at_primary = Bench(**vars(around), **vars(started))
        owner = await asyncpg.connect(standby.dsn("postgres"))
        stack.push_async_callback(owner.close, timeout=1)
        at_standby = Bench(**{**vars(around), "database_wire": wire, "owner": owner}, **vars(started))
        strikes = {fault: strike for (stage, fault), strike in matrix().items() if stage == "search"}
        wired = [fault for fault in strikes if fault in _WIRE or fault in ON_EITHER]
        assert len(wired) == len(_WIRE) + len(ON_EITHER)
        red: list[Cell] = []
        answers: dict[str, list[Cell]] = {"standby": [], "primary": []}
        # A server that hung counts as slow for a while, so the faults of one server come before those of the other.
        for world, where in ((at_standby, "standby"), (at_primary, "primary")):
            for fault in wired:

                def strike(_: Bench, world: Bench = world, fault: str = fault) -> AbstractAsyncContextManager[None]:
                    return strikes[fault](world)

                cell = await run_cell(at_primary, where, fault, strike, concurrency=AT_ONCE, deadline=5.0)
                answers[where].append(cell)
                if not cell.green:
                    red.append(cell)
        assert not red
        for cells in answers.values():
            share = sum(cell.answered for cell in cells) / (AT_ONCE * len(cells))
            assert share >= 0.95, [cell for cell in cells if cell.answered < AT_ONCE]


writes = st.lists(
    st.tuples(st.sampled_from("abcde"), st.one_of(st.none(), st.integers(1, 50)), st.floats(0, 20), st.integers(0, 50)),
    max_size=30,
)


@given(writes=writes, most=st.integers(1, 3))
def test_a_recent_write_is_needed_until_it_is_replayed_or_its_time_has_passed(
    writes: list[tuple[str, int | None, float, int]], most: int
) -> None:
    now, seconds = 0.0, 10.0
    remembered = RecentWrites(seconds, most=most, now=lambda: now)
    model: list[tuple[str, float, float]] = []
    for tenant, position, pause, replayed in writes:
        remembered.add(tenant, position)
        model.append((tenant, math.inf if position is None else position, now + seconds))
        now += pause
        remembered.replayed(replayed)
        model = [(who, where, until) for who, where, until in model if where > replayed and until > now]
        for who in "abcde":
            mine = max((where for owner, where, _ in model if owner == who), default=0.0)
            assert remembered.needed([who]) >= mine
        assert remembered.needed("abcde") >= max((where for _, where, _ in model), default=0.0)
    now += seconds
    assert not remembered
    assert remembered.needed("abcde") == 0


def test_each_host_is_one_replica() -> None:
    store = PgVectorStore("postgresql:///x", read_dsn="postgresql://u:secret@h1,h2:5433/x")
    assert list(store.replicas) == ["h1/x", "h2:5433/x"]
    assert store.describe()["replicas"] == ["h1/x", "h2:5433/x"]
    both = PgVectorStore("postgresql:///x", read_dsn=["postgresql://u@h1/x", "postgresql://v@h2,h3/x"])
    assert list(both.replicas) == ["h1/x", "h2/x", "h3/x"]
    assert PgVectorStore("postgresql:///x").replicas == ()
    assert "replicas" not in PgVectorStore("postgresql:///x").describe()
    assert [a.dsn.reveal() for a in parse_each("postgresql://u@h1:1,h2:2/x?target_session_attrs=standby")] == [
        "postgresql://u@/x?target_session_attrs=standby&host=h1&port=1",
        "postgresql://u@/x?target_session_attrs=standby&host=h2&port=2",
    ]


def test_wrong_settings_are_reported() -> None:
    with pytest.raises(ConfigurationError, match="the replica h/x more than once"):
        PgVectorStore("postgresql:///x", read_dsn="postgresql://h,h/x")
    for seconds in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigurationError, match="read_your_writes is"):
            PgVectorStore("postgresql:///x", read_your_writes=seconds)
    with pytest.raises(ConfigurationError, match="postgresql://"):
        PgVectorStore("postgresql:///x", read_dsn="h1")


def test_the_environment_names_replicas() -> None:
    environ = {
        "DATABASE_URL": "postgresql://u:secret@h1/x",
        "RAGCORE_READ_DSN": "postgresql://u:secret@h2,h3/x postgresql://u:secret@h4/x",
        "RAGCORE_READ_YOUR_WRITES": "5",
        "RAGCORE_MODELS": "extractive",
        "RAGCORE_EMBEDDING_MODEL": "local",
    }
    config = Config.from_env(environ)
    assert [secret.reveal() for secret in config.read_dsn] == environ["RAGCORE_READ_DSN"].split()
    assert "secret@" not in repr(config)
    store = RAG.from_config(config).retriever.store
    assert isinstance(store, PgVectorStore)
    assert list(store.replicas) == ["h2/x", "h3/x", "h4/x"]
    assert store.read_your_writes == 5.0


def test_the_embedded_database_has_no_replicas() -> None:
    config = replace(Config.local("data"), read_dsn=(Secret("postgresql://h/x"),))
    with pytest.raises(ConfigurationError, match="the embedded database has no replicas"):
        RAG.from_config(config)

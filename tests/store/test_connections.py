"""If a connection ends for an ordinary reason, such as a restart, no call fails."""

from __future__ import annotations

import asyncio
import collections
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import anyio
import asyncpg
import pytest

from ragcore import NotOpen, PgVectorStore, Query
from ragcore.resilience import Policy, deadline
from ragcore.store import embedded, migrate
from ragcore.store.embedded import supervisor
from ragcore.store.postgres.connection import Connection, PooledConnection, compiling, connect
from ragcore.store.postgres.dsn import parse
from ragcore.store.postgres.pool import Pool
from ragcore.testing import FaultProxy

from .contract import DIMENSION, LETTER, OLD, PLAN, query

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

OURS = "from pg_stat_activity where usename = 'ragcore' and datname = current_database()"
AT_ONCE = 8


@pytest.fixture
async def store(migrated: tuple[str, str]) -> AsyncIterator[PgVectorStore]:
    async with PgVectorStore(migrated[0], pool_size=AT_ONCE) as store:
        await store.upsert([PLAN, OLD, LETTER], tenant="a")
        yield store


@pytest.fixture
async def admin(migrated: tuple[str, str]) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(migrated[1])
    yield connection
    await connection.close()


async def test_connections_compile_no_statements(store: PgVectorStore) -> None:
    """A server with LLVM would compile each search anew, which may take a second. The embedded server has no LLVM, so only the setting is checked."""

    async def read(connection: PooledConnection) -> object:
        return await connection.fetchval("show jit")

    assert await store._collection.call(read, stage="search") == "off"


async def test_statements_that_are_compiled_behind_a_pooler_are_a_warning(migrated: tuple[str, str]) -> None:
    class WithLLVM:
        """A connection to a server with LLVM."""

        def __init__(self, connection: Connection) -> None:
            self._connection = connection

        async def fetchval(self, statement: str) -> object:
            return await self._connection.fetchval(statement.replace("pg_jit_available()", "true"))

    direct, pooled = parse(migrated[0]), parse(f"{migrated[0]}&pgbouncer=true")
    async with connect(direct) as connection:
        assert await compiling(connection, pooled) == ()
        assert await compiling(cast("Connection", WithLLVM(connection)), direct) == ()
        (warning,) = await compiling(cast("Connection", WithLLVM(connection)), pooled)
        assert 'run `alter role "ragcore" set jit = off`' in warning
        await connection.execute("set jit = off")
        assert await compiling(cast("Connection", WithLLVM(connection)), pooled) == ()


async def outcomes(store: PgVectorStore, *, count: int = AT_ONCE, seconds: float = 8.0) -> collections.Counter[str]:
    """Return the outcomes of `count` simultaneous calls of all kinds."""
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.search(query("deductible")),
        lambda: store.search(query("deductible", mode="hybrid")),
        lambda: store.hashes(None, tenant="a"),
        lambda: store.upsert([PLAN], tenant="a"),
    ]
    counter: collections.Counter[str] = collections.Counter()

    async def one(number: int) -> None:
        try:
            with deadline(seconds):
                await calls[number % len(calls)]()
            counter["answered"] += 1
        except Exception as error:
            counter[f"{type(error).__name__}: {error} from {error.__cause__!r}"] += 1

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(one, number)
    return counter


async def test_connections_that_the_server_ended_while_idle_cost_no_call(
    store: PgVectorStore, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    for _ in range(5):
        assert await outcomes(store) == {"answered": AT_ONCE}
        assert store.snapshot()["idle"] > 1
        await admin.execute(f"select pg_terminate_backend(pid) {OURS}")
        assert await outcomes(store) == {"answered": AT_ONCE}
    for policy in (store.policy, store.write_policy):
        assert policy.snapshot()["breaker"]["failure"] == 0


async def test_idle_sessions_that_time_out_cost_no_call(
    migrated: tuple[str, str], admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    await admin.execute(f"alter database {await _name(admin)} set idle_session_timeout = '100ms'")
    async with PgVectorStore(migrated[0], pool_size=AT_ONCE) as store:
        await store.upsert([PLAN], tenant="a")
        for pause in (0.1, 0.15, 0.3):
            assert await outcomes(store) == {"answered": AT_ONCE}
            await anyio.sleep(pause)
        assert await outcomes(store) == {"answered": AT_ONCE}


async def _name(admin: asyncpg.Connection[asyncpg.Record]) -> str:
    return str(await admin.fetchval("select current_database()"))


async def test_calls_killed_while_they_run_are_answered_and_open_no_breaker(
    store: PgVectorStore, admin: asyncpg.Connection[asyncpg.Record], migrated: tuple[str, str]
) -> None:
    watcher = await asyncpg.connect(migrated[1])  # within a transaction, pg_stat_activity does not change
    for _ in range(4):
        lock = admin.transaction()
        await lock.start()
        await admin.execute("lock table ragcore.chunk, ragcore.document in access exclusive mode")
        calls = asyncio.ensure_future(outcomes(store))
        waiting = f"select count(*) {OURS} and wait_event_type = 'Lock'"
        with anyio.fail_after(10):
            while await watcher.fetchval(waiting) < AT_ONCE - 1:
                await anyio.sleep(0.01)
        await watcher.execute(f"select pg_terminate_backend(pid) {OURS}")
        await lock.rollback()
        assert await calls == {"answered": AT_ONCE}
    await watcher.close()
    assert store.policy.snapshot()["breaker"]["state"] == "closed"
    assert store.write_policy.snapshot()["breaker"]["state"] == "closed"


@pytest.mark.blocking_allowed
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_fast_and_an_immediate_restart_cost_no_call(tmp_path_factory: pytest.TempPathFactory, how: int) -> None:
    folder = tmp_path_factory.mktemp("restarts")
    async with embedded.server(folder) as server:
        await migrate(server.owner_dsn, model="fake", dimension=DIMENSION, role="ragcore")
        async with PgVectorStore(server.dsn, pool_size=AT_ONCE) as store:
            await store.upsert([PLAN], tenant="a")
            assert await outcomes(store) == {"answered": AT_ONCE}
            os.kill(server.pid, how)
            until = time.monotonic() + 10
            while supervisor.postmaster_of(Path(folder) / "postgres") in (None, (server.pid, True)):
                assert time.monotonic() < until
                await anyio.sleep(0.01)
            assert await outcomes(store) == {"answered": AT_ONCE}


async def test_pgvector_dropped_and_created_again_is_detected(
    store: PgVectorStore, admin: asyncpg.Connection[asyncpg.Record], migrated: tuple[str, str]
) -> None:
    assert await outcomes(store) == {"answered": AT_ONCE}
    await admin.execute("drop extension vector cascade; drop schema ragcore cascade; create extension vector")
    await migrate(migrated[1], model="fake", dimension=DIMENSION, role="ragcore")
    assert await outcomes(store) == {"answered": AT_ONCE}
    await store.upsert([PLAN], tenant="a")
    assert len(await store.search(query("deductible"))) == 3


async def test_a_delete_whose_commit_was_not_answered_counts_what_it_deleted(
    store: PgVectorStore, admin: asyncpg.Connection[asyncpg.Record], migrated: tuple[str, str]
) -> None:
    """If the session of a COMMIT that waits for a standby is terminated, the COMMIT has already taken effect."""
    await admin.execute("alter system set synchronous_standby_names = 'nobody'")
    await admin.execute("select pg_reload_conf()")
    try:
        await _until_commits_wait(admin, migrated[1])
        deleting = asyncio.ensure_future(store.delete(["plan", "old", "missing"], tenant="a"))
        with anyio.fail_after(10):
            while not await admin.fetchval(f"select count(*) {OURS} and wait_event = 'SyncRep'"):
                await anyio.sleep(0.01)
        await admin.execute(f"select pg_terminate_backend(pid) {OURS} and wait_event = 'SyncRep'")
        assert await deleting == 2
    finally:
        await admin.execute("alter system reset synchronous_standby_names")
        await admin.execute("select pg_reload_conf()")
    assert await store.hashes(None, tenant="a") == {"letter": "h"}


async def _until_commits_wait(admin: asyncpg.Connection[asyncpg.Record], owner_dsn: str) -> None:
    """Wait until the server uses the new setting."""
    while True:
        writing = asyncio.ensure_future(admin.execute("update ragcore.setting set value = value"))
        done, _ = await asyncio.wait([writing], timeout=0.5)
        if not done:
            other = await asyncpg.connect(owner_dsn)
            await other.execute("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'")
            await other.close()
            await writing  # a warning says that it was committed only on this server
            return
        await writing


async def test_a_server_that_stays_away_opens_the_breaker(
    migrated: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragcore.store.postgres.pool.AWAY_SECONDS", 0.1)
    socket = migrated[0].split("host=")[1]
    name = migrated[0].split("/")[3].split("?")[0]
    async with FaultProxy(f"{socket}/.s.PGSQL.5432") as proxy:
        dsn = f"postgresql://ragcore@127.0.0.1:{proxy.port}/{name}"
        async with PgVectorStore(dsn, policy=Policy("database", retry=False)) as store:
            await store.search(query("q"))
            proxy.refuse()
            proxy.reset()
            for _ in range(12):
                await outcomes(store, count=1, seconds=1)
            for _ in range(12):
                with pytest.raises(Exception, match="."):
                    await store.search(query("q"))
            assert store.policy.snapshot()["breaker"]["state"] == "open"


async def test_callers_beyond_the_pool_take_turns_and_a_cancelled_one_loses_no_connection(
    migrated: tuple[str, str],
) -> None:
    pool = Pool(parse(migrated[0]), size=2)
    order: list[int] = []

    async def one(number: int) -> None:
        async def work(connection: asyncpg.Connection[asyncpg.Record]) -> None:
            order.append(number)
            await connection.fetchval("select pg_sleep(0.02)")

        await pool.run(work)

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(one, number)
            await anyio.sleep(0)
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(one, 99)
            await anyio.sleep(0.001)
            waiting.cancel_scope.cancel()
    assert sorted(order) == list(range(6))
    assert (pool.in_use, pool.idle) == (0, 2)
    await pool.close(1.0)
    assert pool.idle == 0


async def test_a_connection_that_is_idle_for_long_is_closed(
    migrated: tuple[str, str], admin: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragcore.store.postgres.pool.IDLE_SECONDS", 0.1)
    async with PgVectorStore(migrated[0]) as store:
        await store.first_look()
        await store.search(query("q"))
        assert store.snapshot()["idle"] >= 1
        with anyio.fail_after(5):
            while await admin.fetchval(f"select count(*) {OURS}"):
                await anyio.sleep(0.02)
        assert store.snapshot()["idle"] == 0
        assert await store.search(query("q")) == []


async def test_the_time_of_a_statement_is_limited_and_its_connection_is_terminated(migrated: tuple[str, str]) -> None:
    async with PgVectorStore(migrated[0], pool_size=1) as store:
        await store.first_look()
        await store.upsert([PLAN], tenant="a")
        with anyio.move_on_after(0.005):
            await store.search(Query(question="x" * 1_000, tenant="a", mode="text", top_k=1_000))
        assert store.snapshot()["in_use"] == 0
        assert len(await store.search(query("deductible"))) == 3


async def test_callers_that_wait_while_the_store_is_closed_get_an_error(migrated: tuple[str, str]) -> None:
    store = PgVectorStore(migrated[0], pool_size=2)
    await store.start()
    await store.upsert([PLAN], tenant="a")
    asked = [asyncio.ensure_future(store.search(query("deductible"))) for _ in range(60)]
    await asyncio.sleep(0)
    await store.aclose()
    ended = await asyncio.gather(*asked, return_exceptions=True)
    kinds = {type(one).__name__ for one in ended if isinstance(one, Exception)}
    assert kinds <= {"NotOpen", "StoreError"}, ended[-1]


async def test_a_caller_that_connects_while_the_pool_is_closed_does_no_work(migrated: tuple[str, str]) -> None:
    pool = Pool(parse(migrated[0]), size=2)
    asked = asyncio.ensure_future(pool.run(lambda connection: connection.fetchval("select 1")))
    await asyncio.sleep(0)  # it connects now
    await pool.close(1.0)
    with pytest.raises(NotOpen):
        await asked


async def test_the_statement_of_a_cancelled_caller_ends_at_the_server(
    migrated: tuple[str, str], admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    pool = Pool(parse(migrated[0]), size=2)
    for _ in range(4):
        with anyio.move_on_after(0.05):
            await pool.run(lambda connection: connection.fetchval("select pg_sleep(30)"))
    with anyio.fail_after(8):
        while await admin.fetchval(f"select count(*) {OURS}"):
            await anyio.sleep(0.1)
    assert await pool.run(lambda connection: connection.fetchval("select 1")) == 1  # every place is free again
    await pool.close(1.0)

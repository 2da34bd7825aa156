"""No call hangs: real servers, real faults, on asyncio and on uvloop. The whole matrix is `python -m benchmarks faults`."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import psutil
import pytest
from benchmarks.scenarios.faults import run_matrix
from benchmarks.scenarios.soak import soak

from ragcore import (
    Document,
    NotOpen,
    OpenAIEmbedder,
    OpenAIGenerator,
    PgVectorStore,
    Prompt,
    RagcoreError,
    Settings,
)
from ragcore.client.rag import RAG
from ragcore.resilience import Bulkhead, Policy, deadline
from ragcore.retrieval.retriever import Retriever
from ragcore.store import embedded, migrate
from ragcore.testing import FakeEmbedder, FakeGenerator, FaultProxy, Hang, OpenAIServer, at_rest, fake_rag
from tests.pace import in_time
from tests.support.bench import FACT, QUESTION, TENANT, Bench, bench
from tests.support.matrix import matrix

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.blocking_allowed, pytest.mark.timeout(240)]


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
async def world(database: tuple[str, str]) -> AsyncIterator[Bench]:
    plain, owner = database
    async with bench(owner_dsn=owner, plain_dsn=plain, reranks=True) as made:
        yield made


NOISY = pytest.mark.usefixtures("asyncpgs_noise")
PLAIN = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=pytest.mark.thorough),
    ],
)
@NOISY
async def test_the_reduced_matrix_is_green(world: Bench) -> None:
    """Run one or two faults of each kind, with ten calls at once. The model servers take turns with the faults that all three can have."""
    faults = dict.fromkeys(fault for _, fault in matrix() if fault not in ALIKE)
    turn = dict(zip(faults, itertools.cycle(MODELS), strict=False))
    shared = {fault for fault in faults if all((stage, fault) in matrix() for stage in MODELS)}
    cells = await run_matrix(
        world,
        concurrencies=(10,),
        deadline=0.5,
        only=lambda stage, fault: (
            fault in faults and not (fault in shared and stage in MODELS and stage != turn[fault])
        ),
    )
    assert len(cells) > 60
    for cell in cells:  # the benchmark judges delays of a tenth of a second
        cell.late = 0
    assert [cell for cell in cells if not cell.green] == []
    assert in_time(max(cell.overrun for cell in cells), 1.0)


@pytest.mark.thorough
@PLAIN
@NOISY
async def test_the_faults_of_the_database_are_green_with_an_existing_table(database: tuple[str, str]) -> None:
    """Run them with a `TableStore` that searches the collection's table. It relies on the table's row-level security."""
    plain, owner = database
    async with bench(owner_dsn=owner, plain_dsn=plain, searches_table=True) as world:
        cells = await run_matrix(
            world,
            concurrencies=(10,),
            deadline=0.5,
            only=lambda stage, fault: stage in ("search", "all") and fault not in ALIKE,
        )
    assert len(cells) > 20
    for cell in cells:
        cell.late = 0
    assert [cell for cell in cells if not cell.green] == []


MODELS = ("embed", "rerank", "generate")
# These are left out: faults of a kind that another fault covers, and restarts of the server that all tests share.
ALIKE = {
    *("fast restart", "immediate restart"),
    *("401", "403", "409", "502", "504", "truncated JSON", "a list", "vectors: nan", "vectors: base64"),
    *("bomb", "bombed error body", "endless error body", "redirect to another server"),
    *("close after finish", "close after done", "reset after done", "temperature refused", "stream_options refused"),
    *("stream: error at once", "stream: error after text", "stream: filtered", "stream: refused", "stream: tool calls"),
    *("stream: length without text", "stream: thinking that never ends"),
    *("stream: reset at once", "stream: idle at once", "reset in mid-request", "stall after 20 bytes", "half-close"),
}


@PLAIN
async def test_ten_thousand_cancelled_requests_leave_every_slot_usable() -> None:
    """With the pool of httpx 0.28, none of ten later requests was answered (encode/httpcore#1093)."""
    draw = random.Random(1)
    async with OpenAIServer(embedding_latency=0.02, first_token_latency=0.02) as server:
        options = {"base_url": server.base_url, "api_key": "none"}
        policy = Policy("embedding", bulkhead=Bulkhead(8, queue=1_000), breaker=False, retry=False)
        another = Policy("generation", bulkhead=Bulkhead(8, queue=1_000), breaker=False, retry=False)
        async with (
            OpenAIEmbedder("fake", dimension=64, policy=policy, **options) as embedder,  # type: ignore[arg-type]
            OpenAIGenerator("fake", policy=another, **options) as generator,  # type: ignore[arg-type]
        ):

            async def embed(number: int) -> None:
                await embedder.embed([f"text {number}"], kind="document")

            async def generate(number: int) -> None:
                await generator.generate(Prompt(f"question {number}"))

            async def cancelled(call: Callable[[int], Any], number: int) -> None:
                with anyio.move_on_after(draw.uniform(0, 0.03)), suppress(RagcoreError):
                    await call(number)

            for start in range(0, 5_000, 100):
                async with anyio.create_task_group() as group:
                    for number in range(start, start + 100):
                        group.start_soon(cancelled, embed, number)
                        group.start_soon(cancelled, generate, number)
            at_rest(policy, another)()
            answered = 0
            with anyio.fail_after(10):
                for number in range(10):
                    await embed(number)
                    await generate(number)
                    answered += 1
            assert answered == 10
            await _until(lambda: server.active == 0)


@PLAIN
@NOISY
async def test_a_frozen_postgresql_frees_all_callers_at_their_deadline(migrated: tuple[str, str]) -> None:
    """In the same situation, hand-written code with asyncpg and asyncio.timeout(1) hangs for the whole 8 s (12 callers, a pool of 5)."""
    plain, owner_dsn = migrated
    owner = await asyncpg.connect(owner_dsn)
    async with PgVectorStore(plain, pool_size=5) as store:
        await asyncio.gather(*(store.ping() for _ in range(5)))
        pids = await _backends(owner)
        seconds: list[float] = []
        errors: list[BaseException] = []

        async def one() -> None:
            began = anyio.current_time()
            try:
                with deadline(1):
                    await store.count(tenant="a")
            except RagcoreError as error:
                errors.append(error)
            seconds.append(anyio.current_time() - began)

        _signal(pids, signal.SIGSTOP)
        try:
            async with anyio.create_task_group() as group:
                for _ in range(12):
                    group.start_soon(one)
            assert len(errors) == 12
            assert in_time(max(seconds), 2)
            await anyio.sleep(max(0, 8 - max(seconds)))
        finally:
            _signal(pids, signal.SIGCONT)
        breaker = store.policy.breaker()
        assert breaker is not None
        breaker.reset()
        with anyio.fail_after(30):
            await asyncio.gather(*(store.count(tenant="a") for _ in range(12)))
        at_rest(store.policy)()
        assert store.snapshot()["in_use"] == 0
    await owner.close()


@PLAIN
@NOISY
async def test_a_task_cancelled_while_a_frozen_server_prepares_its_connection_ends(migrated: tuple[str, str]) -> None:
    """asyncpg's own `init` would wait without a limit until the connection is closed."""
    plain, _ = migrated
    base, _, where = plain.partition("?host=")
    async with FaultProxy(f"{where}/.s.PGSQL.5432") as proxy:
        dsn = f"postgresql://ragcore@127.0.0.1:{proxy.port}/{base.rpartition('/')[2]}"
        async with PgVectorStore(dsn, pool_size=1) as store:
            await store.first_look()
            for after in (0.0, 0.002, 0.004, 0.006, 0.01):
                proxy.reset()
                await anyio.sleep(0.05)
                task = asyncio.ensure_future(store.count(tenant="a"))
                await anyio.sleep(after)
                proxy.freeze()
                await anyio.sleep(0.05)
                began = anyio.current_time()
                task.cancel()
                await asyncio.wait([task], timeout=5)
                assert in_time(anyio.current_time() - began, 1)
                proxy.thaw()
            with deadline(5):
                await store.count(tenant="a")


@PLAIN
@NOISY
@pytest.mark.parametrize("way", ["scope", "task"])
async def test_cancelled_calls_return_and_leave_the_pool_intact(world: Bench, way: str) -> None:
    draw = random.Random(2)

    async def ask() -> None:
        try:
            await world.rag.ask(QUESTION, tenant=TENANT, timeout=20)
        except RagcoreError:
            return

    world.model.first_token_latency = 0.05
    for _ in range(25):
        wait = draw.uniform(0, 0.15)
        if way == "scope":
            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(ask)
                await anyio.sleep(wait)
                began = anyio.current_time()
                group.cancel_scope.cancel()
        else:
            tasks = [asyncio.ensure_future(ask()) for _ in range(100)]
            await anyio.sleep(wait)
            began = anyio.current_time()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=10)
            assert all(task.done() for task in tasks)
        assert in_time(anyio.current_time() - began, 1.5)
        assert world.rag.inflight() == ()
    await _until(lambda: world.store.snapshot()["in_use"] == 0)
    answers = []

    async def keep() -> None:
        answers.append(await world.rag.ask(QUESTION, tenant=TENANT, timeout=20))

    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(keep)
    assert sum(FACT in answer.text and not answer.degraded for answer in answers) == 100


async def test_a_stalled_tls_handshake_ends_at_the_deadline() -> None:
    async with FaultProxy("127.0.0.1", 9) as proxy:
        proxy.faults.always(Hang())
        url = f"https://127.0.0.1:{proxy.port}/v1"
        embedder = OpenAIEmbedder("fake", dimension=64, base_url=url, api_key="none")
        generator = OpenAIGenerator("fake", base_url=url, api_key="none")
        async with fake_rag(embedder=embedder, generator=generator) as rag:
            began = anyio.current_time()
            for call in (rag.retrieve, rag.ask):
                with pytest.raises(RagcoreError):
                    await call("What is my deductible?", tenant="m", timeout=0.5, degrade=False)
            assert in_time(anyio.current_time() - began, 3)
            await _until(lambda: _to(proxy.port) == 0)


def _to(port: int) -> int:
    """Count the sockets of this process that are connected to a port."""
    found = psutil.Process().net_connections(kind="tcp")
    return sum(bool(connection.raddr) and connection.raddr.port == port for connection in found)


@PLAIN
@NOISY
async def test_a_client_survives_a_real_restart_of_the_server() -> None:
    folder = Path(tempfile.mkdtemp(prefix="ragcore-restart-"))
    server = await anyio.to_thread.run_sync(embedded.start, folder)
    try:
        await migrate(server.owner_dsn, model="fake", dimension=64, role="ragcore")
        async with PgVectorStore(server.dsn, pool_size=3) as store:
            retriever = Retriever(store=store, embedder=FakeEmbedder())
            async with RAG(retriever=retriever, generator=FakeGenerator(), settings=Settings(drain=0.2)) as rag:
                await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
                await anyio.to_thread.run_sync(embedded.stop, folder)
                with pytest.raises(RagcoreError):
                    await rag.ask("What is my deductible?", tenant="m", timeout=2)
                await anyio.to_thread.run_sync(embedded.start, folder)
                breaker = store.policy.breaker()
                assert breaker is not None
                breaker.reset()
                answer = await rag.ask("What is my deductible?", tenant="m", timeout=10)
                assert answer.found
    finally:
        await anyio.to_thread.run_sync(embedded.stop, folder)
        await anyio.to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))


@NOISY
async def test_close_is_fast_while_no_server_responds(world: Bench) -> None:
    for wire in (world.embedding_wire, world.model_wire, world.database_wire):
        wire.freeze()
    try:
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(_asked, world.rag)
            await anyio.sleep(0.2)
            began = anyio.current_time()
            await world.rag.aclose(drain=0.3)
            assert in_time(anyio.current_time() - began, 4)
    finally:
        for wire in (world.embedding_wire, world.model_wire, world.database_wire):
            wire.thaw()


async def _asked(rag: RAG) -> None:
    with pytest.raises(RagcoreError):
        await rag.ask(QUESTION, tenant=TENANT, timeout=30)


@PLAIN
async def test_a_forked_child_gets_an_error_and_does_not_hang(world: Bench) -> None:
    child = multiprocessing.get_context("fork").Process(target=_in_the_child, args=(world.rag,))
    child.start()
    await anyio.to_thread.run_sync(child.join, 20)
    child.kill()
    assert child.exitcode == 0
    assert FACT in (await world.rag.ask(QUESTION, tenant=TENANT, timeout=10)).text


def _in_the_child(rag: RAG) -> None:
    async def main() -> None:
        for call in (rag.ask(QUESTION, tenant=TENANT), rag.retrieve(QUESTION, tenant=TENANT), rag.start()):
            try:
                await call
            except NotOpen:
                continue
            os._exit(1)
        await rag.aclose()

    asyncio.set_event_loop(None)
    asyncio.new_event_loop().run_until_complete(main())
    os._exit(0)


async def _backends(owner: asyncpg.Connection[asyncpg.Record]) -> list[int]:
    query = "select pid from pg_stat_activity where usename = 'ragcore' and datname = current_database()"
    return [row["pid"] for row in await owner.fetch(query)]


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.01)


@PLAIN
@NOISY
@pytest.mark.parametrize("seconds", [8.0, pytest.param(60.0, marks=pytest.mark.thorough)])
async def test_mixed_traffic_is_accounted_for_and_leaks_nothing(seconds: float) -> None:
    """A short version of `python -m benchmarks soak`. Only the long run judges memory."""
    # Other tests of this process have left memory behind, so only the growth counts.
    before = psutil.Process().memory_info().rss / 2**20
    figures = await soak(seconds)
    values = figures.values
    assert values["sent"] == values["accounted"]
    assert values["running_at_the_end"] == 0
    assert values["fd_growth"] == 0
    assert float(values["rss_end_mb"] or 0) - before < 500

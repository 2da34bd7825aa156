"""Limits apply to several processes together. Tested with real PostgreSQL and independent clients."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import asyncpg
import pytest

from ragcore import (
    RAG,
    ConfigurationError,
    Document,
    Generation,
    LimitExceeded,
    MemoryStore,
    PgVectorStore,
    Price,
    Prompt,
    RagcoreError,
    Retriever,
    Settings,
    Usage,
)
from ragcore.generation import at_once
from ragcore.protocols import Allowance, Ledger, Limits
from ragcore.testing import FakeEmbedder, FakeGenerator
from tests.pace import in_time

from .contract import DIMENSION

pytestmark = [pytest.mark.system, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


PRICES = {"costly": Price(prompt=1_000, completion=1_000)}


class Costly(FakeGenerator):
    """A generator that uses 500 tokens for each answer."""

    async def generate(self, prompt: Prompt, /) -> Generation:
        return Generation("It is $1,500 [1].", model="costly", usage=Usage(prompt_tokens=400, completion_tokens=100))

    def stream(self, prompt: Prompt, /) -> Any:
        return at_once(self.generate(prompt))


class Late(PgVectorStore):
    """A store that does its work at once and returns the result late.

    Attributes:
        late: delay of the answer, in seconds.
    """

    late = 0.0

    async def count_calls(self, ledger: Ledger, limits: Limits, /, **options: Any) -> Allowance:
        allowance = await super().count_calls(ledger, limits, **options)
        await anyio.sleep(self.late)
        return allowance


def client(dsn: str, *, generator: FakeGenerator | None = None, **limits: Any) -> RAG:
    retriever = Retriever(store=Late(dsn, pool_size=4), embedder=FakeEmbedder(dimension=DIMENSION))
    settings = Settings(watchdog=False, share_limits=True, **limits)
    return RAG(retriever=retriever, generator=generator or FakeGenerator(), settings=settings)


class Crowd:
    """Several clients of one database, each as in a separate process.

    Attributes:
        dsn, owner_dsn: DSNs of the database.
    """

    def __init__(self, dsn: str, owner_dsn: str, stack: AsyncExitStack) -> None:
        self.dsn = dsn
        self.owner_dsn = owner_dsn
        self._stack = stack

    async def of(self, count: int, **options: Any) -> list[RAG]:
        clients = [client(self.dsn, **options) for _ in range(count)]
        for one in clients:
            await self._stack.enter_async_context(one)
        await clients[0].add([Document("d", "The deductible is $1,500.")], tenant="m")
        return clients

    async def spending(self, count: int, **limits: Any) -> list[RAG]:
        """Return clients whose answers cost 0.5 each."""
        return await self.of(count, generator=Costly(), prices=PRICES, **limits)


@pytest.fixture
async def crowd(migrated: tuple[str, str]) -> AsyncIterator[Crowd]:
    """Clients of a migrated database; they are closed after the test."""
    async with AsyncExitStack() as stack:
        yield Crowd(*migrated, stack)


def late_store(one: RAG) -> Late:
    store = one.retriever.store
    assert isinstance(store, Late)
    return store


async def outcome(one: RAG, tenant: str = "m", *, stream: bool = False) -> str:
    try:
        if stream:
            async with one.stream("deductible?", tenant=tenant) as answering:
                await answering.answer()
        else:
            await one.ask("deductible?", tenant=tenant)
    except LimitExceeded as error:
        return error.limit
    return "ok"


async def test_requests_per_minute_are_counted_for_all_processes(crowd: Crowd) -> None:
    clients = await crowd.of(4, requests_per_minute=6)
    ways = [(one, stream) for one in clients for stream in (False, True) for _ in range(3)]
    seen = await asyncio.gather(*(outcome(one, stream=stream) for one, stream in ways))
    assert sorted(seen) == ["ok"] * 6 + ["requests"] * 18
    assert await outcome(clients[0], "other") == "ok"
    # After an answer of the database, each client knows the remaining requests, for the headers.
    for one in clients:
        assert one.limits(tenant="m")[0].remaining == 0
    # Refused calls are not in the list of recent calls.
    assert sum(len(one.recent()) for one in clients) == 6 + 1 + 1


async def test_tokens_and_spending_are_counted_for_all_processes(crowd: Crowd) -> None:
    first, second = await crowd.of(2, generator=Costly(), tokens_per_minute=900)
    assert [await outcome(first), await outcome(second), await outcome(first)] == ["ok", "ok", "tokens"]
    assert await outcome(second, stream=True) == "tokens"
    third, fourth = await crowd.spending(2, spending_per_day=0.9)
    assert [await outcome(third, stream=True), await outcome(fourth), await outcome(third)] == ["ok", "ok", "spending"]
    assert await outcome(fourth) == "spending"


async def test_a_call_gives_its_place_back_however_it_ends(crowd: Crowd) -> None:
    slow = FakeGenerator(token_latency=0.3)
    first, second = await crowd.of(2, generator=slow, calls_at_once=2)
    async with anyio.create_task_group() as group:
        group.start_soon(outcome, first)
        group.start_soon(outcome, second)
        await anyio.sleep(0.5)
        assert [await outcome(first), await outcome(second, stream=True)] == ["calls", "calls"]
        group.cancel_scope.cancel()
    with pytest.raises(RagcoreError):
        await first.ask("deductible?", tenant="m", timeout=0.4, degrade=False)
    async with first.stream("deductible?", tenant="m"):
        pass
    slow.token_latency = 0.0
    assert [await outcome(one, stream=stream) for one in (first, second) for stream in (True, False)] == ["ok"] * 4


async def test_a_place_of_a_process_that_was_killed_comes_back_after_its_deadline(crowd: Crowd) -> None:
    script = """
        import asyncio, sys
        from ragcore import RAG, PgVectorStore, Retriever, Settings
        from ragcore.testing import FakeEmbedder, FakeGenerator
        async def main():
            retriever = Retriever(store=PgVectorStore(sys.argv[1]), embedder=FakeEmbedder(dimension=64))
            settings = Settings(watchdog=False, share_limits=True, calls_at_once=1)
            async with RAG(retriever=retriever, generator=FakeGenerator(token_latency=9), settings=settings) as rag:
                asyncio.get_running_loop().call_later(1.0, lambda: print("asking", flush=True))
                await rag.ask("deductible?", tenant="m", timeout=3)
        asyncio.run(main())
    """
    (here,) = await crowd.of(1, calls_at_once=1)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), crowd.dsn], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    assert await anyio.to_thread.run_sync(process.stdout.readline) == "asking\n"
    assert await outcome(here) == "calls"
    process.kill()
    process.wait()
    process.stdout.close()
    began = time.monotonic()
    while await outcome(here) != "ok":
        await anyio.sleep(0.25)
        assert in_time(time.monotonic() - began, 15)
    assert time.monotonic() - began > 1


@pytest.mark.parametrize("fault", ["locked", "gone"])
async def test_without_the_database_each_process_counts_for_itself(
    crowd: Crowd, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    (here,) = await crowd.of(1, requests_per_minute=3)
    owner = await asyncpg.connect(crowd.owner_dsn)
    try:
        async with owner.transaction():
            if fault == "locked":
                await owner.execute("lock table ragcore.quota in exclusive mode")
            else:
                await owner.execute("drop function ragcore.count_calls")
                await owner.execute("commit; begin")
            began = time.monotonic()
            assert [await outcome(here) for _ in range(4)] == ["ok"] * 3 + ["requests"]
            assert in_time(time.monotonic() - began, 3)
    finally:
        await owner.close()
    assert len([line for line in caplog.messages if "shared limits are not available" in line]) == 1


async def recorded(owner_dsn: str) -> Any:
    connection = await asyncpg.connect(owner_dsn)
    try:
        return await connection.fetchrow(
            "select spent, tokens, (select count(*) from jsonb_object_keys(calls)) as calls from ragcore.quota where tenant = 'm'"
        )
    finally:
        await connection.close()


async def test_a_count_whose_answer_was_lost_counts_once(
    crowd: Crowd,
) -> None:
    (here,) = await crowd.spending(1, spending_per_day=50)
    store = late_store(here)
    for late in (0.4, 0.0, 0.4, 0.4, 2.0, 0.0, 0.0):
        store.late = late
        assert await outcome(here, stream=late == 2.0) == "ok"
    spent = sum(used.cost for used in here.used().values())
    assert spent == pytest.approx(3.5)
    store.late = 0.0
    until = time.monotonic() + 15
    while (row := await recorded(crowd.owner_dsn))["calls"] or row["spent"] < spent - 1e-9:
        assert time.monotonic() < until, row
        await anyio.sleep(0.1)
    assert row["spent"] == pytest.approx(spent)


async def test_places_come_back_after_a_short_failure_of_the_database(
    crowd: Crowd,
) -> None:
    first, second = await crowd.of(2, generator=FakeGenerator(token_latency=0.2), calls_at_once=2)
    store = late_store(first)
    async with anyio.create_task_group() as group:
        group.start_soon(outcome, first)
        group.start_soon(outcome, first)
        await anyio.sleep(0.6)
        store.late = 1.5
        group.start_soon(outcome, first, "other")
        await anyio.sleep(1.2)
    store.late = 0.0
    until = time.monotonic() + 8
    while await outcome(second) != "ok":  # the timeout of a call is 30 s
        assert time.monotonic() < until
        await anyio.sleep(0.2)


async def test_a_limit_holds_even_if_ends_of_calls_are_written_late(
    crowd: Crowd,
) -> None:
    (here,) = await crowd.spending(1, spending_per_day=1.0)
    store = late_store(here)
    store.late = 0.35
    assert [await outcome(here) for _ in range(4)] == ["ok", "ok", "spending", "spending"]


async def test_a_store_that_cannot_count_is_refused_at_once() -> None:
    retriever = Retriever(store=MemoryStore(), embedder=FakeEmbedder())
    with pytest.raises(ConfigurationError, match="share_limits"):
        RAG(retriever=retriever, generator=FakeGenerator(), settings=Settings(share_limits=True))

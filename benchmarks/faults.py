"""The fault matrix: every fault at every stage at several concurrencies, against a real PostgreSQL and a real HTTP server.

For each cell: every call is back by its deadline with an answer or with an error of ragcore's own; nothing is hung, wrong or leaked; and when
the fault is gone, the next call (or the one after the breaker's probe) is answered.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import asyncpg
import psutil

from benchmarks.figures import Figures, say
from ragcore import (
    RAG,
    Answer,
    Document,
    OpenAIEmbedder,
    OpenAIGenerator,
    PgVectorStore,
    RagcoreError,
    Settings,
)
from ragcore.resilience import Bulkhead, CircuitBreaker, Policy, RetryPolicy
from ragcore.retriever import Retriever
from ragcore.store import embedded, migrate
from ragcore.testing import (
    Broken,
    Corrupt,
    Deaf,
    Drip,
    Fail,
    Fault,
    FaultProxy,
    HalfClose,
    Hang,
    Huge,
    OpenAIServer,
    Redirect,
    Reply,
    Reset,
    Silent,
    Stall,
)

__all__ = ["Bench", "Cell", "bench", "matrix", "run", "run_cell", "run_matrix"]

TENANT = "member"
QUESTION = "What is my deductible?"
FACT = "$1,500"
DOCUMENTS = [
    Document("plan", "# Plan\n\nYour deductible is $1,500 per calendar year."),
    Document("visits", "# Visits\n\nA visit to a specialist costs a copay of $40."),
]
DIMENSION = 64
POOL = 5
# Back more than this after the deadline is late, net of the loop's lag; this much after it is hung.
LATE = 0.1
HUNG = 5.0
# How long a cell may take to answer again, breaker and all.
RECOVERY = 6.0

Lift: TypeAlias = Callable[[], Awaitable[None] | None]
Strike: TypeAlias = Callable[["Bench"], AbstractAsyncContextManager[None]]


@dataclass(slots=True)
class Cell:
    """What came of one fault at one stage and concurrency."""

    stage: str
    fault: str
    concurrency: int
    answered: int = 0
    degraded: int = 0
    refused: int = 0
    late: int = 0
    hung: int = 0
    wrong: int = 0
    foreign: int = 0
    slowest: float = 0.0
    leaked_connections: int = 0
    leaked_sockets: int = 0
    leaked_tasks: int = 0
    recovered: bool = False
    recovery_seconds: float = math.nan
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def green(self) -> bool:
        """Whether nothing in it is red."""
        red = (self.late, self.hung, self.wrong, self.foreign, self.leaked_connections)
        return not any((*red, self.leaked_sockets, self.leaked_tasks)) and self.recovered


@dataclass
class Bench:
    """A client with each of its dependencies behind a proxy."""

    rag: RAG
    store: PgVectorStore
    embedding: OpenAIServer
    model: OpenAIServer
    embedding_wire: FaultProxy
    model_wire: FaultProxy
    database_wire: FaultProxy
    owner: asyncpg.Connection[asyncpg.Record]
    owner_dsn: str
    role: str

    def breakers(self) -> Iterable[CircuitBreaker]:
        """All breakers of the client."""
        for part in (self.rag.retriever.embedder, self.store, self.rag._given):
            policy: Policy = part.policy  # type: ignore[union-attr]
            for key in (None, "fake"):
                breaker = policy.breaker(key)
                if breaker is not None:
                    yield breaker

    def half_closed(self) -> int:
        """The client's sockets that the peer has closed and the client has not."""
        wires = (self.embedding_wire, self.model_wire, self.database_wire)
        ports = {self.embedding.port, self.model.port, *(wire.port for wire in wires)}
        return sum(
            connection.status == psutil.CONN_CLOSE_WAIT and connection.laddr.port not in ports
            for connection in psutil.Process().net_connections(kind="tcp")
            if connection.family == socket.AF_INET
        )


def _policy(name: str, *, attempt_timeout: float = 5.0, **options: Any) -> Policy:
    """The default one, but for a breaker that probes soon, or each cell would take as long as a break."""
    return Policy(
        name,
        attempt_timeout=attempt_timeout,
        retry=RetryPolicy(attempts=3, backoff=0.05, max_backoff=0.5),
        breaker=CircuitBreaker(break_duration=0.2, max_break_duration=0.4, name=name),
        **options,
    )


@asynccontextmanager
async def bench(
    owner_dsn: str | None = None,
    plain_dsn: str | None = None,
    *,
    model: OpenAIServer | None = None,
    model_policy: Policy | None = None,
) -> AsyncIterator[Bench]:
    """Servers, proxies and a client, with two documents in the store. Without DSNs it starts a PostgreSQL of its own."""
    async with AsyncExitStack() as stack:
        if owner_dsn is None or plain_dsn is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            server = await stack.enter_async_context(embedded.server(folder))
            owner_dsn, plain_dsn = server.owner_dsn.reveal(), server.dsn.reveal()
        await migrate(owner_dsn, model="fake", dimension=DIMENSION, role="ragcore")
        enter = stack.enter_async_context
        embedding, model = await enter(OpenAIServer(dimension=DIMENSION)), await enter(model or OpenAIServer())
        embedding_wire = await enter(FaultProxy("127.0.0.1", embedding.port))
        model_wire = await enter(FaultProxy("127.0.0.1", model.port))
        base, _, where = plain_dsn.partition("?host=")
        database_wire = await enter(FaultProxy(f"{where}/.s.PGSQL.5432"))
        name = base.rpartition("/")[2]
        store = PgVectorStore(
            f"postgresql://ragcore@127.0.0.1:{database_wire.port}/{name}",
            pool_size=POOL,
            policy=_policy("database", attempt_timeout=10.0, bulkhead=Bulkhead(POOL, queue=200)),
        )
        embedder = OpenAIEmbedder(
            "fake",
            dimension=DIMENSION,
            base_url=f"http://127.0.0.1:{embedding_wire.port}/v1",
            api_key="none",
            policy=_policy("embedding", bulkhead=Bulkhead(64, queue=256)),
        )
        generator = OpenAIGenerator(
            "fake",
            base_url=f"http://127.0.0.1:{model_wire.port}/v1",
            api_key="none",
            policy=model_policy or _policy("generation", bulkhead=Bulkhead(128, queue=256), idle_timeout=5.0),
        )
        owner = await asyncpg.connect(owner_dsn)
        stack.push_async_callback(owner.close, timeout=1)
        rag = await enter(
            RAG(retriever=Retriever(store=store, embedder=embedder), generator=generator, settings=Settings(drain=0.5))
        )
        await rag.add(DOCUMENTS, tenant=TENANT)
        yield Bench(
            rag, store, embedding, model, embedding_wire, model_wire, database_wire, owner, owner_dsn, "ragcore"
        )


# ---- faults ------------------------------------------------------------------------------------------------------------


def _served(stage: str, fault: Fault) -> Strike:
    """A fault of the HTTP server of a stage."""

    @asynccontextmanager
    async def strike(bench: Bench) -> AsyncIterator[None]:
        server = bench.embedding if stage == "embed" else bench.model
        server.faults.always(fault)
        try:
            yield
        finally:
            server.faults.always(None)

    return strike


def _wired(stage: str, fault: Fault) -> Strike:
    """A fault on the way to a stage: open connections are reset, for it strikes new ones."""

    @asynccontextmanager
    async def strike(bench: Bench) -> AsyncIterator[None]:
        wire = _wire(bench, stage)
        wire.faults.always(fault)
        wire.reset()
        await anyio.sleep(0.02)
        try:
            yield
        finally:
            wire.faults.always(None)
            wire.reset()

    return strike


def _wire(bench: Bench, stage: str) -> FaultProxy:
    return {"embed": bench.embedding_wire, "generate": bench.model_wire, "search": bench.database_wire}[stage]


def _refused(stage: str) -> Strike:
    @asynccontextmanager
    async def strike(bench: Bench) -> AsyncIterator[None]:
        wire = _wire(bench, stage)
        wire.refuse()
        wire.reset()
        await anyio.sleep(0.02)
        try:
            yield
        finally:
            await wire.listen()

    return strike


def _frozen(stage: str, after: float = 0.0) -> Strike:
    """No byte passes from now on, or from the middle of the calls; a cancel request is swallowed as well."""

    @asynccontextmanager
    async def strike(bench: Bench) -> AsyncIterator[None]:
        wire = _wire(bench, stage)
        async with anyio.create_task_group() as group:

            async def freeze() -> None:
                await anyio.sleep(after)
                wire.freeze()

            group.start_soon(freeze)
            if not after:
                await anyio.sleep(0.01)
            try:
                yield
            finally:
                group.cancel_scope.cancel()
                wire.thaw()

    return strike


@asynccontextmanager
async def _unresolvable(bench: Bench) -> AsyncIterator[None]:
    """Every name takes for ever to resolve: the default executor's threads all wait for a name server."""
    loop = asyncio.get_running_loop()
    given = loop.getaddrinfo

    async def never(*_: object, **__: object) -> list[Any]:
        await asyncio.sleep(3600)
        return []

    loop.getaddrinfo = never  # type: ignore[method-assign]
    for wire in (bench.embedding_wire, bench.model_wire, bench.database_wire):
        wire.reset()
    await anyio.sleep(0.02)
    try:
        yield
    finally:
        loop.getaddrinfo = given  # type: ignore[method-assign]


def _sql(before: str, after: str = "", *, keep: bool = True) -> Strike:
    """Something that another session does to the database."""

    @asynccontextmanager
    async def strike(bench: Bench) -> AsyncIterator[None]:
        other = await asyncpg.connect(bench.owner_dsn)
        try:
            if keep:
                transaction = other.transaction()
                await transaction.start()
                await other.execute(before)
                yield
                await transaction.rollback()
            else:
                await other.execute(before)
                try:
                    yield
                finally:
                    await other.execute(after)
        finally:
            await other.close(timeout=1)

    return strike


def _again_and_again(statement: str, every: float = 0.003) -> Strike:
    """A statement against the client's sessions, while the calls run."""

    @asynccontextmanager
    async def strike(bench: Bench) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:

            async def repeat() -> None:
                while True:
                    await bench.owner.execute(statement, bench.role)
                    await anyio.sleep(every)

            group.start_soon(repeat)
            await anyio.sleep(0.01)
            yield
            group.cancel_scope.cancel()

    return strike


@asynccontextmanager
async def _stopped_backends(bench: Bench) -> AsyncIterator[None]:
    """SIGSTOP to all of the client's backends: a server that is frozen, not gone."""
    rows = await bench.owner.fetch("select pid from pg_stat_activity where usename = $1", bench.role)
    pids = [row["pid"] for row in rows]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


@asynccontextmanager
async def _restarted(bench: Bench) -> AsyncIterator[None]:
    """The server ends all sessions and takes no new ones for a while, as at a restart."""
    bench.database_wire.refuse()
    await bench.owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", bench.role)
    await anyio.sleep(0.02)
    try:
        yield
    finally:
        await bench.database_wire.listen()


def _http(stage: str) -> dict[str, Strike]:
    """What can go wrong with an HTTP server, on the wire and in its answers."""
    statuses: dict[str, Fault] = {
        str(status): Fail(status) for status in (400, 401, 403, 404, 408, 409, 413, 500, 502, 503, 504, 529)
    }
    limits: dict[str, Fault] = {
        "429": Fail(429),
        "429 Retry-After seconds": Fail(429, {"retry-after": "1"}),
        "429 Retry-After 2069": Fail(429, {"retry-after": "Tue, 01 Jan 2069 00:00:00 GMT"}),
        "429 Retry-After absurd": Fail(429, {"retry-after": "-soon"}),
        "429 insufficient_quota": Fail(429, {}, "insufficient_quota"),
    }
    answers: dict[str, Fault] = {
        "headers, then silence": Silent(),
        "truncated JSON": Reply(200, b'{"object": "list", "data": [{"emb'),
        "invalid JSON": Reply(200, b"<>"),
        "wrong shape": Reply(200, b'{"data": 7, "choices": "none"}'),
        "a list": Reply(200, b"[]"),
        "HTML with status 200": Reply(200, b"<html><body>Welcome</body></html>", {"content-type": "text/html"}),
        "100 MB": Huge(),
        "redirect loop": Redirect(),
        "black hole": Hang(),
        "disconnect": Fail(OSError()),
    }
    if stage == "embed":
        answers |= {f"vectors: {what}": Corrupt(what) for what in ("dimension", "nan", "zero", "base64", "count")}
    else:
        answers |= {f"stream: {how}": Broken(2, how) for how in ("reset", "clean", "idle", "endless")}
        answers |= {f"stream: {how} at once": Broken(0, how) for how in ("reset", "clean", "idle")}
    wires = {name: _wired(stage, fault) for name, fault in _WIRE.items()}
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    limits["429 Retry-After date"] = Fail(
        429, {"date": format_datetime(datetime.now(UTC), usegmt=True), "retry-after": soon}
    )
    return {
        **{name: _served(stage, fault) for name, fault in {**statuses, **limits, **answers}.items()},
        **wires,
        "refused": _refused(stage),
        "frozen": _frozen(stage),
    }


_WIRE: dict[str, Fault] = {
    "accepts, never answers": Hang(),
    "reset at connect": Reset("connect"),
    "reset in mid-request": Reset("request"),
    "reset in mid-answer": Reset("answer", 20),
    "stall after 20 bytes": Stall(20),
    "one byte a second": Drip(1.0),
    "half-close": HalfClose(20),
}
SELECT_BACKENDS = "from pg_stat_activity where usename = $1 and pid <> pg_backend_pid()"


def matrix() -> dict[tuple[str, str], Strike]:
    """All faults by stage and name."""
    faults: dict[tuple[str, str], Strike] = {}
    for stage in ("embed", "generate"):
        faults |= {(stage, name): strike for name, strike in _http(stage).items()}
    database: dict[str, Strike] = {
        **{name: _wired("search", fault) for name, fault in _WIRE.items()},
        "swallows Terminate": _wired("search", Deaf()),
        "refused": _refused("search"),
        "frozen": _frozen("search"),
        "black hole in mid-query": _frozen("search", 0.004),
        "all backends stopped": _stopped_backends,
        "statements cancelled": _again_and_again(f"select pg_cancel_backend(pid) {SELECT_BACKENDS}"),
        "sessions terminated": _again_and_again(f"select pg_terminate_backend(pid) {SELECT_BACKENDS}"),
        "restart in flight": _restarted,
        "a lock held by another": _sql("lock table ragcore.chunk in access exclusive mode"),
        "too many connections": _sql(
            "alter role ragcore connection limit 0; "
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'ragcore'",
            "alter role ragcore connection limit -1",
            keep=False,
        ),
    }
    faults |= {("search", name): strike for name, strike in database.items()}
    faults["all", "names never resolve"] = _unresolvable
    faults["all", "everything frozen"] = _everything_frozen
    return faults


@asynccontextmanager
async def _everything_frozen(bench: Bench) -> AsyncIterator[None]:
    wires = (bench.embedding_wire, bench.model_wire, bench.database_wire)
    for wire in wires:
        wire.freeze()
    try:
        yield
    finally:
        for wire in wires:
            wire.thaw()


# ---- a cell ------------------------------------------------------------------------------------------------------------


async def run_cell(bench: Bench, stage: str, fault: str, strike: Strike, *, concurrency: int, deadline: float) -> Cell:
    """So many questions at once under the fault, then without it until one is answered in full."""
    cell = Cell(stage, fault, concurrency)
    for breaker in bench.breakers():
        breaker.reset()
    tasks = _tasks()
    async with strike(bench):
        lag = await _Lag().start()
        async with anyio.create_task_group() as group:
            for number in range(concurrency):
                group.start_soon(_ask, bench, cell, deadline, lag, number)
        lag.stop()
    began = anyio.current_time()
    while anyio.current_time() < began + RECOVERY:
        if await _answers(bench):
            cell.recovered = True
            break
        await anyio.sleep(0.05)
    cell.recovery_seconds = anyio.current_time() - began
    await _look_for_leaks(bench, cell, tasks)
    return cell


async def _ask(bench: Bench, cell: Cell, deadline: float, lag: _Lag, number: int) -> None:
    began = anyio.current_time()
    answer: Answer | None = None
    with anyio.move_on_after(deadline + HUNG) as scope:
        try:
            answer = await bench.rag.ask(QUESTION, tenant=TENANT, timeout=deadline)
        except RagcoreError as error:
            cell.refused += 1
            name = type(error).__name__
            cell.errors[name] = cell.errors.get(name, 0) + 1
        except Exception as error:
            cell.foreign += 1
            name = f"foreign {type(error).__name__}"
            cell.errors[name] = cell.errors.get(name, 0) + 1
    elapsed = anyio.current_time() - began
    cell.hung += scope.cancelled_caught
    cell.slowest = max(cell.slowest, elapsed)
    cell.late += elapsed - lag.worst > deadline + LATE
    if answer is not None:
        right = FACT in answer.text
        cell.wrong += not right
        cell.degraded += right and bool(answer.degraded)
        cell.answered += right and not answer.degraded


async def _answers(bench: Bench) -> bool:
    try:
        answer = await bench.rag.ask(QUESTION, tenant=TENANT, timeout=2)
    except RagcoreError:
        return False
    return FACT in answer.text and not answer.degraded


async def _look_for_leaks(bench: Bench, cell: Cell, before: set[object]) -> None:
    """Connections at the server beyond the pool's own, sockets whose peer has gone, tasks that were not there."""
    for _ in range(60):
        pool = bench.store.snapshot()
        query = "select count(*) from pg_stat_activity where usename = $1"
        at_server = await bench.owner.fetchval(query, bench.role)
        cell.leaked_connections = max(0, at_server - pool["in_use"] - pool["idle"]) + pool["in_use"]
        cell.leaked_sockets = bench.half_closed()
        cell.leaked_tasks = len(_tasks() - before)
        if not (cell.leaked_connections or cell.leaked_sockets or cell.leaked_tasks):
            return
        await anyio.sleep(0.1)


def _tasks() -> set[object]:
    """The client's own tasks; the servers' and proxies' come and go with connections."""
    theirs = ("FaultProxy", "OpenAIServer")
    return {
        task
        for task in asyncio.all_tasks()
        if task.get_name().startswith("ragcore") and not any(name in task.get_name() for name in theirs)
    }


class _Lag:
    """The worst delay of the event loop while a cell runs: what the machine did, not the client."""

    worst = 0.0

    async def start(self) -> _Lag:
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="lag")
        return self

    async def _watch(self) -> None:
        while True:
            before = anyio.current_time()
            await asyncio.sleep(0.01)
            self.worst = max(self.worst, anyio.current_time() - before - 0.01)

    def stop(self) -> None:
        self._task.cancel()


# ---- the run -----------------------------------------------------------------------------------------------------------


async def run_matrix(
    bench: Bench, *, concurrencies: Sequence[int], deadline: float, only: Callable[[str, str], bool] | None = None
) -> list[Cell]:
    """All cells, one after the other."""
    cells = []
    for (stage, fault), strike in matrix().items():
        if only is not None and not only(stage, fault):
            continue
        for concurrency in concurrencies:
            cell = await run_cell(bench, stage, fault, strike, concurrency=concurrency, deadline=deadline)
            cells.append(cell)
            say(_line(cell))
    return cells


def _line(cell: Cell) -> str:
    counts = f"{cell.answered:>4} answered {cell.degraded:>4} degraded {cell.refused:>4} refused"
    red = {
        name: value
        for name in ("late", "hung", "wrong", "foreign", "leaked_connections", "leaked_sockets", "leaked_tasks")
        if (value := getattr(cell, name))
    }
    if not cell.recovered:
        red["unrecovered"] = 1
    verdict = "ok " if cell.green else "RED"
    where = f"{cell.stage:<9}{cell.fault:<26}{cell.concurrency:>4}"
    return f"{verdict} {where} {counts}  {cell.slowest:5.2f} s  {red or ''} {cell.errors or ''}"


def run(*, quick: bool) -> Figures:
    """Quickly: 10 at once with a deadline of 0.6 s."""
    return anyio.run(_run, (10,) if quick else (1, 10, 100), 0.6 if quick else 1.0)


async def _run(concurrencies: Sequence[int], deadline: float) -> Figures:
    figures = Figures()
    sockets = len(psutil.Process().net_connections(kind="all"))
    async with bench() as world:
        cells = await run_matrix(world, concurrencies=concurrencies, deadline=deadline)
    await anyio.sleep(0.2)
    left = len(psutil.Process().net_connections(kind="all")) - sockets
    figures.values["cells"] = len(cells)
    for name in ("late", "hung", "wrong", "foreign", "leaked_connections", "leaked_sockets", "leaked_tasks"):
        figures.values[name] = total = sum(getattr(cell, name) for cell in cells)
        figures.expect(total == 0, f"{name} == 0")
    figures.values["unrecovered"] = unrecovered = sum(not cell.recovered for cell in cells)
    figures.expect(unrecovered == 0, "unrecovered == 0")
    figures.values["sockets_left_at_the_end"] = left
    figures.values["slowest_s"] = max(cell.slowest for cell in cells)
    _write([asdict(cell) for cell in cells])
    return figures


def _write(cells: list[dict[str, Any]]) -> None:
    folder = Path("results")
    folder.mkdir(exist_ok=True)
    (folder / "faults.json").write_text(json.dumps(cells, indent=1))
    say(f"each cell stands in {folder / 'faults.json'}")

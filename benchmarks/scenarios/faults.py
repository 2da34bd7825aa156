"""The fault matrix. It runs every fault at every stage at several concurrencies, against a real PostgreSQL and a real HTTP server.

In each cell, every call must end by its deadline with an answer or one of ragcore's errors. No call may hang, no answer may be wrong, and no connection,
socket or task may leak. After the fault, the next call (or the call after the breaker's probe) must be answered. HTTP servers with faults run in another
process, so that the measured memory and event loop time belong to the client alone.
"""

from __future__ import annotations

import asyncio
import gc
import math
import resource
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import anyio
import asyncpg
import psutil
import typer
from tests.support.bench import FACT, QUESTION, TENANT, Bench, Transport, bench, client
from tests.support.bench import Client as BenchClient
from tests.support.elsewhere import Elsewhere, elsewhere
from tests.support.matrix import ORDINARY, matrix
from tests.support.servers import ROLE

from ragcore import RAG, Answer, PgVectorStore, RagcoreError, TableStore
from ragcore.loadtest.figures import Figures, Table, Value, say
from ragcore.resilience import CircuitBreaker

__all__ = ["Cell", "run", "run_cell", "run_matrix"]

# A call counts as late, or as hung, if it ends more than this many seconds after its deadline. The event loop's lag is not included.
LATE = 0.1
HUNG = 5.0
# The deadline in seconds for routine faults. Like usual deadlines, it is longer than a restart takes.
ORDINARY_DEADLINE = 5.0
# In each cell, the process may grow by at most this many MB, and the event loop may be blocked for at most this many ms.
MOST_GROWTH_MB = 64
MOST_LAG_MS = 100
HTTP = ("embed", "rerank", "generate")
# After a fault, a cell must answer again within this many seconds, including the time for which the breaker is open.
RECOVERY = 6.0


@dataclass(slots=True)
class Cell:
    """The results of one fault at one stage and concurrency.

    Attributes:
        slowest: seconds of the longest call.
        overrun: seconds by which a call ended after its deadline, at most. Routine faults have a longer deadline than the others.
    """

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
    overrun: float = 0.0
    lag_ms: float = 0.0
    growth_mb: float = 0.0
    leaked_connections: int = 0
    leaked_sockets: int = 0
    leaked_tasks: int = 0
    unexplained: int = 0
    recovered: bool = False
    recovery_seconds: float = math.nan
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def green(self) -> bool:
        """Whether no check failed."""
        red = (self.late, self.hung, self.wrong, self.foreign, self.leaked_connections, self.unexplained)
        return not any((*red, self.leaked_sockets, self.leaked_tasks)) and self.recovered


class Client(Protocol):
    """A client under test, and the state of its servers."""

    rag: RAG
    store: PgVectorStore | TableStore
    owner: asyncpg.Connection[asyncpg.Record]

    def breakers(self) -> Iterable[CircuitBreaker]: ...
    def half_closed(self) -> int: ...


B = TypeVar("B", bound=Client)


async def run_cell(
    bench: B,
    stage: str,
    fault: str,
    strike: Callable[[B], AbstractAsyncContextManager[None]],
    *,
    concurrency: int,
    deadline: float,
) -> Cell:
    """Ask several questions at once under the fault. Then ask without the fault until one question is answered completely."""
    cell = Cell(stage, fault, concurrency)
    for breaker in bench.breakers():
        breaker.reset()
    tasks = _tasks()
    async with strike(bench):
        # Collect the garbage of earlier cells now. If it were collected later, the event loop of this cell would be blocked for 50 to 100 ms.
        gc.collect()
        gc.freeze()
        lag = await _Lag(bench.rag).start()
        async with anyio.create_task_group() as group:
            for number in range(concurrency):
                group.start_soon(_ask, bench, cell, deadline, lag, number)
        lag.stop()
    cell.lag_ms, cell.growth_mb, cell.unexplained = 1000 * lag.worst, lag.growth, lag.unexplained
    began = anyio.current_time()
    while anyio.current_time() < began + RECOVERY:
        if await _answers(bench):
            cell.recovered = True
            break
        await anyio.sleep(0.05)
    cell.recovery_seconds = anyio.current_time() - began
    await _look_for_leaks(bench, cell, tasks)
    return cell


async def _ask(bench: Client, cell: Cell, deadline: float, lag: _Lag, number: int) -> None:
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
    cell.overrun = max(cell.overrun, elapsed - deadline)
    cell.late += elapsed - lag.worst > deadline + LATE
    if answer is not None:
        right = FACT in answer.text
        cell.wrong += not right
        cell.degraded += right and bool(answer.degraded)
        cell.answered += right and not answer.degraded


async def _answers(bench: Client) -> bool:
    try:
        answer = await bench.rag.ask(QUESTION, tenant=TENANT, timeout=2)
    except RagcoreError:
        return False
    return FACT in answer.text and not answer.degraded


async def _look_for_leaks(bench: Client, cell: Cell, before: set[object]) -> None:
    """Count leaks: server connections beyond the pool's size, sockets whose peer has closed, and new tasks."""
    for _ in range(60):
        pool = bench.store.snapshot()
        query = "select count(*) from pg_stat_activity where usename = $1"
        at_server = await bench.owner.fetchval(query, ROLE)
        cell.leaked_connections = max(0, at_server - pool["in_use"] - pool["idle"]) + pool["in_use"]
        cell.leaked_sockets = bench.half_closed()
        cell.leaked_tasks = len(_tasks() - before)
        if not (cell.leaked_connections or cell.leaked_sockets or cell.leaked_tasks):
            return
        await anyio.sleep(0.1)


def _tasks() -> set[object]:
    """Return the client's own tasks. Tasks of servers and proxies are left out, because they vary with the connections."""
    theirs = ("FaultProxy", "OpenAIServer")
    return {
        task
        for task in asyncio.all_tasks()
        if task.get_name().startswith("ragcore") and not any(name in task.get_name() for name in theirs)
    }


class _Lag:
    """Measures the longest delay of the event loop while a cell runs, by how many MiB the process grew, and which calls don't say what they wait for."""

    worst = 0.0
    growth = 0.0
    unexplained = 0

    def __init__(self, rag: RAG) -> None:
        self._rag = rag

    async def start(self) -> _Lag:
        self._before = _resident()
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="lag")
        return self

    async def _watch(self) -> None:
        looks = 0
        while True:
            before = anyio.current_time()
            await asyncio.sleep(0.01)
            self.worst = max(self.worst, anyio.current_time() - before - 0.01)
            self.growth = max(self.growth, _resident() - self._before)
            looks += 1
            if looks % 10 == 0:  # not more often: it takes a millisecond for a hundred calls
                self.unexplained += sum(not call.waiting_on for call in self._rag.inflight())

    def stop(self) -> None:
        self._task.cancel()


def _resident() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024 / 1024


@dataclass
class Afar:
    """A client whose servers are in another process."""

    rag: RAG
    store: PgVectorStore | TableStore
    owner: asyncpg.Connection[asyncpg.Record]
    client: BenchClient
    servers: Elsewhere

    def breakers(self) -> Iterable[CircuitBreaker]:
        """All breakers of the client."""
        return self.client.breakers()

    def half_closed(self) -> int:
        """Count sockets that the peer has closed and the client has not."""
        return sum(one.status == psutil.CONN_CLOSE_WAIT for one in psutil.Process().net_connections(kind="tcp"))


@asynccontextmanager
async def afar(transport: Transport = "httpx") -> AsyncIterator[Afar]:
    """Start a client, and its servers in another process."""
    async with elsewhere() as servers, client(servers.addresses, transport=transport, reranks=True) as made:
        owner = await asyncpg.connect(servers.addresses.owner)
        try:
            yield Afar(made.rag, made.store, owner, made, servers)
        finally:
            await owner.close(timeout=1)


def _from_afar(stage: str, fault: str) -> Callable[[Afar], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def strike(world: Afar) -> AsyncIterator[None]:
        await world.servers.strike(stage, fault)
        await anyio.sleep(0.1)
        try:
            yield
        finally:
            await world.servers.fair()
            await anyio.sleep(0.05)

    return strike


async def run_http(world: Afar, stages: frozenset[str], *, concurrencies: Sequence[int], deadline: float) -> list[Cell]:
    """Run all cells with faults of the HTTP servers, one after the other."""
    cells = []
    await run_cell(world, "", "none", _from_afar("generate", "400"), concurrency=max(concurrencies), deadline=deadline)
    for stage, fault in matrix():
        if stage not in stages:
            continue
        for concurrency in concurrencies:
            strike = _from_afar(stage, fault)
            cell = await run_cell(world, stage, fault, strike, concurrency=concurrency, deadline=deadline)
            cells.append(cell)
            say(_line(cell))
    return cells


async def run_matrix(
    bench: Bench, *, concurrencies: Sequence[int], deadline: float, only: Callable[[str, str], bool] | None = None
) -> list[Cell]:
    """Run all cells, one after the other."""
    cells = []
    for (stage, fault), strike in matrix().items():
        if only is not None and not only(stage, fault):
            continue
        for concurrency in concurrencies:
            seconds = max(deadline, ORDINARY_DEADLINE) if fault in ORDINARY else deadline
            cell = await run_cell(bench, stage, fault, strike, concurrency=concurrency, deadline=seconds)
            cells.append(cell)
            say(_line(cell))
    return cells


def _line(cell: Cell) -> str:
    counts = f"{cell.answered:>4} answered {cell.degraded:>4} degraded {cell.refused:>4} refused"
    red = {
        name: value
        for name in (
            "late",
            "hung",
            "wrong",
            "foreign",
            "leaked_connections",
            "leaked_sockets",
            "leaked_tasks",
            "unexplained",
        )
        if (value := getattr(cell, name))
    }
    if not cell.recovered:
        red["unrecovered"] = 1
    verdict = "ok " if cell.green else "RED"
    where = f"{cell.stage:<9}{cell.fault:<26}{cell.concurrency:>4}"
    cost = f"{cell.slowest:5.2f} s {cell.lag_ms:4.0f} ms {cell.growth_mb:4.0f} MB"
    return f"{verdict} {where} {counts}  {cost}  {red or ''} {cell.errors or ''}"


def run(
    *,
    quick: bool,
    transport: Annotated[str, typer.Option(help="HTTP library for requests to models: httpx or aiohttp.")] = "httpx",
    only: Annotated[
        list[str] | None, typer.Option(help="Stages: embed, rerank, generate, search, all. Default: every stage.")
    ] = None,
) -> Figures:
    """Run every fault at every stage and concurrency. With --quick: 10 calls at once with a deadline of 0.6 s."""
    if transport not in ("httpx", "aiohttp"):
        raise ValueError(f"unknown transport {transport!r}: choose httpx or aiohttp")
    chosen: Transport = "aiohttp" if transport == "aiohttp" else "httpx"
    return anyio.run(_run, (10,) if quick else (1, 10, 100), 0.6 if quick else 1.0, chosen, frozenset(only or ()))


async def _run(concurrencies: Sequence[int], deadline: float, transport: Transport, only: frozenset[str]) -> Figures:
    figures = Figures()
    sockets = len(psutil.Process().net_connections(kind="all"))
    async with bench(reranks=True) as world:
        cells = await run_matrix(
            world,
            concurrencies=concurrencies,
            deadline=deadline,
            only=lambda stage, _: stage not in HTTP and (not only or stage in only),
        )
    async with afar(transport) as distant:
        stages = frozenset(HTTP) & only if only else frozenset(HTTP)
        cells += await run_http(distant, stages, concurrencies=concurrencies, deadline=deadline)
    await anyio.sleep(0.2)
    left = len(psutil.Process().net_connections(kind="all")) - sockets
    figures.values["cells"] = len(cells)
    for name in (
        "late",
        "hung",
        "wrong",
        "foreign",
        "leaked_connections",
        "leaked_sockets",
        "leaked_tasks",
        "unexplained",
    ):
        figures.values[name] = total = sum(getattr(cell, name) for cell in cells)
        figures.expect(total == 0, f"{name} == 0")
    figures.values["unrecovered"] = unrecovered = sum(not cell.recovered for cell in cells)
    figures.expect(unrecovered == 0, "unrecovered == 0")
    ordinary = [cell for cell in cells if cell.fault in ORDINARY]
    if ordinary:
        ratio = sum(cell.answered for cell in ordinary) / sum(cell.concurrency for cell in ordinary)
        figures.values["answered_ratio"] = ratio
        figures.expect(ratio >= 0.95, "answered_ratio >= 0.95 in usual conditions")
    figures.values["growth_max_mb"] = growth = max(cell.growth_mb for cell in cells)
    figures.values["lag_max_ms"] = lag = max(cell.lag_ms for cell in cells)
    figures.expect(growth < MOST_GROWTH_MB, f"growth_max_mb < {MOST_GROWTH_MB} in every cell")
    figures.expect(lag < MOST_LAG_MS, f"lag_max_ms < {MOST_LAG_MS} in every cell")
    figures.values["sockets_left_at_the_end"] = left
    figures.values["slowest_s"] = max(cell.slowest for cell in cells)
    figures.tables.append(Table("Each cell", [_row(cell) for cell in cells]))
    return figures


def _row(cell: Cell) -> dict[str, Value]:
    errors = ", ".join(f"{count} {name}" for name, count in cell.errors.items())
    return {"": "green" if cell.green else "RED", **asdict(cell), "errors": errors}

"""Several application processes behind nginx, with a primary and two standbys on hosts of their own: what a question costs with 1, 2 and 4 processes.

Two cores can't show that four processes answer four times as many questions. They show whether anything grows with the number of processes: the processor time
and the statements of a question, the connections of a process, waits for locks and for connections. The load is the same for each number of processes.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import httpx
from tests.support.child import Child
from tests.support.elsewhere import elsewhere
from tests.support.hosts import hosts, why_not
from tests.support.servers import DIMENSION
from tests.support.standby import Node, Nodes, nodes

from benchmarks.targets.library import member_questions
from benchmarks.targets.replicated import POOL_SIZE
from benchmarks.targets.served import served
from ragcore.loadtest.figures import Figures, Table, say

__all__ = ["serving"]

COUNTS = (1, 2, 4)
RATE = 10.0
TICK = os.sysconf("SC_CLK_TCK")
NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log warn; worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream service {{ {servers} keepalive 32; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
    }}
}}
"""


@dataclass
class _Run:
    """One run with a number of processes.

    Attributes:
        asked, answered: number of questions, and of right answers.
        p50_ms, p99_ms: time of an answer.
        cpu_ms, database_cpu_ms: processor time of the application processes, and of all database servers, for each question.
        statements: transactions on all servers for each question; each statement is one.
        connections: most connections to all servers for each process.
        locks: samples in which a connection waited for a lock of another one, and `samples` their number.
        waiting: most calls that waited for a connection in one process.
    """

    processes: int
    asked: int = 0
    answered: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_ms: float = 0.0
    database_cpu_ms: float = 0.0
    statements: float = 0.0
    connections: float = 0.0
    locks: int = 0
    samples: int = 0
    waiting: int = 0
    problems: list[str] = field(default_factory=list)


async def serving(figures: Figures, *, quick: bool) -> None:
    """Measure the same load with 1, 2 and 4 processes, in turn, up and down again."""
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    reason = "nginx is not installed: `apt-get install nginx`" if nginx is None else why_not()
    if reason is not None or nginx is None:
        figures.invalid.append(f"serving was not measured: {reason}")
        return
    order = COUNTS if quick else (*COUNTS, *reversed(COUNTS), *COUNTS)
    length = 8.0 if quick else 20.0
    runs: list[_Run] = []
    with hosts(3) as each:
        async with nodes(dimension=DIMENSION, standbys=2, hosts=each) as servers, elsewhere() as models:
            for number, count in enumerate(order):
                say(f"{count} {'process' if count == 1 else 'processes'}, {RATE:g} questions a second …")
                options = {
                    "dsn": servers.any_primary(),
                    "read_dsn": servers.read_dsn(),
                    "embedding": models.addresses.straight_embedding,
                    "model": models.addresses.straight_model,
                }
                async with _processes(count, options, first=number == 0) as (children, urls):
                    with _balanced(nginx, urls) as url:
                        runs.append(await _measured(servers, children, urls, url, seconds=length))
    _report(figures, runs)


@asynccontextmanager
async def _processes(
    count: int, options: dict[str, str], *, first: bool
) -> AsyncIterator[tuple[list[Child], list[str]]]:
    """Start application processes. The very first one adds the documents."""
    async with AsyncExitStack() as stack:
        children, urls = [], []
        for number in range(count):
            given = {**options, "add": first and number == 0}
            url, child = await stack.enter_async_context(served("benchmarks.targets.replicated", given))
            children.append(child)
            urls.append(url)
        yield children, urls


@contextmanager
def _balanced(nginx: str, urls: Sequence[str]) -> Iterator[str]:
    """Run nginx before the processes. Yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ragcore-nginx-") as folder:
        upstream = " ".join(f"server {url.removeprefix('http://')};" for url in urls)
        file = Path(folder) / "nginx.conf"
        file.write_text(NGINX.format(folder=folder, port=port, servers=upstream), encoding="utf-8")
        process = subprocess.Popen([nginx, "-p", folder, "-c", str(file), "-e", f"{folder}/error.log"])
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


async def _measured(
    servers: Nodes, children: Sequence[Child], urls: Sequence[str], url: str, *, seconds: float
) -> _Run:
    run = _Run(len(children))
    with tempfile.TemporaryDirectory() as folder:
        questions = Path(folder) / "questions.jsonl"
        lines = [json.dumps({"question": one.text, "fact": one.facts[0]}) for one in member_questions()]
        questions.write_text("\n".join(lines), encoding="utf-8")
        await _load(url, questions, seconds=3.0)
        each = [servers.primary, *servers.standbys]
        before = [_cpu(child.pid) for child in children], [_cpu_of_tree(node) for node in each]
        began = [await _transactions(node) for node in each]
        async with anyio.create_task_group() as group:
            for node in each:
                group.start_soon(_watch_locks, node, run)
            group.start_soon(_watch_processes, urls, run)
            group.start_soon(_watch_connections, each, run)
            result = await _load(url, questions, seconds=seconds)
            group.cancel_scope.cancel()
        after = [_cpu(child.pid) for child in children], [_cpu_of_tree(node) for node in each]
        ended = [await _transactions(node) for node in each]
    run.asked, run.answered = int(result["asked"]), round(result["asked"] * result["success_rate"])
    run.p50_ms, run.p99_ms = 1000 * result["p50_s"], 1000 * result["p99_s"]
    run.cpu_ms, run.database_cpu_ms = (
        1000 * (sum(late) - sum(early)) / run.asked for early, late in zip(before, after, strict=True)
    )
    # The statements of this scenario are counted as well: those of the watchers are taken off.
    watched = run.samples + 3 * len(each)
    run.statements = (sum(ended) - sum(began) - watched) / run.asked
    return run


async def _load(url: str, questions: Path, *, seconds: float) -> dict[str, float]:
    """Ask through `ragcore loadtest`, in a process of its own, and return its figures."""
    options = [
        *("--url", f"{url}/chat", "--sse", "--questions", str(questions), "--rate", f"{RATE:g}"),
        *("--seconds", f"{seconds:g}", "--warm-up", "0.1", "--repeats", "1", "--json"),
        *("--out", str(questions.parent / f"results-{seconds:g}")),
    ]
    command = [sys.executable, "-m", "ragcore", "loadtest", "load", *options]
    done = await anyio.run_process(command, check=False)
    if not done.stdout.strip():
        raise RuntimeError(f"the load test failed: {done.stderr.decode()[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


async def _transactions(node: Node) -> int:
    return int(str(await node.execute("select sum(xact_commit + xact_rollback) from pg_stat_database")))


async def _watch_locks(node: Node, run: _Run) -> None:
    connection = await asyncpg.connect(node.dsn("postgres"))
    try:
        while True:
            locked = await connection.fetchval(
                "select count(*) from pg_stat_activity where usename = 'ragcore' and wait_event_type = 'Lock'"
            )
            run.locks += locked > 0
            run.samples += 1
            await anyio.sleep(0.05)
    finally:
        connection.terminate()


async def _watch_processes(urls: Sequence[str], run: _Run) -> None:
    async with httpx.AsyncClient(timeout=10) as client:
        while True:
            await anyio.sleep(2)
            for url in urls:
                status = (await client.get(f"{url}/debug/status")).json()
                for pool in status["pools"].values():
                    for one in (pool, *pool.get("replicas", {}).values()):
                        run.waiting = max(run.waiting, one.get("waiting", 0))


async def _watch_connections(each: Sequence[Node], run: _Run) -> None:
    while True:
        await anyio.sleep(2)
        total = 0
        for node in each:
            total += int(str(await node.execute("select count(*) from pg_stat_activity where usename = 'ragcore'")))
            run.samples += 1
        run.connections = max(run.connections, total / run.processes)


def _cpu(pid: int) -> float:
    """Return the seconds of processor time that a process and its ended children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:15]) / TICK


def _cpu_of_tree(node: Node) -> float:
    assert node.process is not None
    pid = node.process.pid
    total = _cpu(pid)
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            total += _cpu(int(child))
        except OSError:  # it has ended meanwhile
            continue
    return total


def _report(figures: Figures, runs: Sequence[_Run]) -> None:
    names = ("asked", "answered", "p50_ms", "p99_ms", "cpu_ms", "database_cpu_ms", "statements", "connections")
    rows: list[dict[str, Any]] = []
    for count in COUNTS:
        some = [run for run in runs if run.processes == count]
        middle = {name: statistics.median(getattr(run, name) for run in some) for name in names}
        locked = sum(run.locks for run in some) / max(1, sum(run.samples for run in some))
        rows.append(
            {
                "processes": count,
                **{name: float(value) for name, value in middle.items()},
                "lock_wait_share": locked,
                "waiting_for_connections": max(run.waiting for run in some),
            }
        )
    figures.tables.append(Table(f"Serving: {RATE:g} questions a second, a primary and two standbys", rows))
    one, four = rows[0], rows[-1]
    figures.values["cpu_flat_ratio"] = ratio = four["cpu_ms"] / one["cpu_ms"]
    figures.values["database_cpu_flat_ratio"] = four["database_cpu_ms"] / one["database_cpu_ms"]
    figures.values["statements_flat_ratio"] = four["statements"] / one["statements"]
    for row in rows:
        figures.values[f"cpu_ms_{row['processes']}"] = row["cpu_ms"]
        figures.values[f"statements_{row['processes']}"] = row["statements"]
    figures.values["lock_wait_share"] = max(row["lock_wait_share"] for row in rows)
    figures.values["waiting_for_connections"] = max(row["waiting_for_connections"] for row in rows)
    figures.values["serving_answered"] = answered = sum(run.answered for run in runs) / sum(run.asked for run in runs)
    figures.expect(ratio <= 1.15, "cpu_flat_ratio <= 1.15")
    figures.expect(answered >= 0.95, "serving_answered >= .95")
    most = max(row["connections"] for row in rows)
    figures.expect(most <= 3 * POOL_SIZE, f"connections of a process <= {3 * POOL_SIZE}: a pool for each server")
    figures.notes.append(
        "two cores can't show a speed-up by more processes: the table shows that the cost of a question stays the same, and that nothing waits for another"
    )

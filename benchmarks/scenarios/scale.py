"""What happens beyond one process: ingestion on Ray, serving by several processes, large collections. Each part can run alone: `--part serving`."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import anyio
from tests.support.ray_ingest import DIMENSION, Killer, client, counted, made_files, nodes

from benchmarks.scenarios.capacity import measure_capacity
from benchmarks.scenarios.million import measure_million
from benchmarks.scenarios.serving import serving
from ragcore.ingest import read
from ragcore.ingest.ray import ingest
from ragcore.loadtest.figures import Figures, Table, say
from ragcore.store import embedded, migrate
from ragcore.types import IngestReport

Part: TypeAlias = Literal["all", "ray", "serving", "capacity", "million"]
CHUNKS, QUICK_CHUNKS = 20_000, 2_000
WORKERS = 2


def run(*, quick: bool, part: Part = "all") -> Figures:
    """Run all parts, or one of them. With --quick: 2,000 chunks on Ray, and nothing is killed; the parts together then take some minutes."""
    figures = Figures()
    for name, measure in PARTS.items():
        if part in ("all", name):
            measure(figures, quick)
    return figures


def _ray(figures: Figures, quick: bool) -> None:
    """Compare Ray with the local engine, then kill a worker and a node half-way, and count the stored documents."""
    count = QUICK_CHUNKS if quick else CHUNKS
    with tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory() as folder:
        server = embedded.start(Path(data))
        before = os.environ.get("DATABASE_URL")
        os.environ["DATABASE_URL"] = server.dsn.reveal()  # the workers' environment
        try:
            owner = server.owner_dsn.reveal()
            anyio.run(lambda: migrate(owner, model="made", dimension=DIMENSION, role="ragcore"))
            made_files(Path(folder), count)
            say(f"the local engine, {count:,} chunks …")
            local = anyio.run(_locally, folder)
            say("Ray with 2 workers …")
            with nodes() as cluster:
                steady = _Steady()
                report = ingest(
                    folder, tenant="ray", client=client, workers=WORKERS, address=cluster.address, progress=steady
                )
                killed = None
                if not quick:
                    say("Ray again; a worker and then a node are killed …")
                    killer = Killer(cluster.second, count)
                    killed = ingest(
                        folder,
                        tenant="killed",
                        client=client,
                        workers=WORKERS,
                        address=cluster.address,
                        progress=killer,
                    )
                    figures.expect(killer.killed == ["worker", "node"], "a worker and a node were killed")
            tenants = ["local", "ray"] + ["killed"] * (killed is not None)
            stored = [anyio.run(counted, owner, tenant) for tenant in tenants]
        finally:
            if before is None:
                del os.environ["DATABASE_URL"]
            else:
                os.environ["DATABASE_URL"] = before
            embedded.stop(Path(data))
    figures.values["ray_ratio"] = (report.chunks / report.seconds) / (local.chunks / local.seconds)
    figures.values["ray_steady_ratio"] = steady.rate / (local.chunks / local.seconds)
    figures.values["ray_start_s"] = steady.first
    figures.values["lost"] = lost = sum(count - documents for documents, _ in stored)
    figures.values["doubled"] = doubled = sum(more for _, more in stored)
    figures.expect(lost == 0, "lost = 0")
    figures.expect(doubled == 0, "doubled = 0")
    runs = [("local engine", local), ("Ray, 2 workers", report)]
    if killed is not None:
        runs.append(("Ray, a worker and a node killed", killed))
    rows: list[dict[str, float | int | str | None]] = [
        {
            "engine": name,
            "chunks": one.chunks,
            "unchanged": one.unchanged,
            "seconds": one.seconds,
            "chunks/s": one.chunks / one.seconds,
        }
        for name, one in runs
    ]
    figures.tables.append(Table("Ingestion with an embedder that takes 50 ms for a request, four at once", rows))


class _Steady:
    """Measures the rate after the first block, when all workers run. Use it as `progress`."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.first = 0.0
        self.rate = 0.0
        self._at_first = 0

    def __call__(self, report: IngestReport) -> None:
        elapsed = time.monotonic() - self._began
        if not self.first:
            self.first, self._at_first = elapsed, report.chunks
        elif elapsed > self.first:
            self.rate = (report.chunks - self._at_first) / (elapsed - self.first)


async def _locally(folder: str) -> IngestReport:
    async with client() as rag:
        return await rag.add(read(folder), tenant="local")


def _serving(figures: Figures, quick: bool) -> None:
    anyio.run(partial(serving, figures, quick=quick))


def _capacity(figures: Figures, quick: bool) -> None:
    anyio.run(partial(measure_capacity, figures, quick=quick))


def _million(figures: Figures, quick: bool) -> None:
    anyio.run(partial(measure_million, figures, quick=quick))


PARTS: dict[str, Callable[[Figures, bool], None]] = {
    "ray": _ray,
    "serving": _serving,
    "capacity": _capacity,
    "million": _million,
}

"""Measures the size, the build time, the speed and the recall of each kind of index by rows and dimension, and how well a model predicts them."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import anyio
import asyncpg
import numpy as np
import typer

from benchmarks.capacity.chunks import MODEL, Chunks, Vectors, copy_in
from benchmarks.capacity.model import Model, Point, build_time, layout_of_index, layout_of_table, left_out, search_time
from benchmarks.capacity.server import SETTINGS, Owner, backends, connected, processor_seconds, server
from ragcore import PgVectorStore, Query
from ragcore.loadtest.figures import Chart, Figures, Line, Table, Value, say
from ragcore.store import Index, build_index, migrate
from ragcore.store.postgres.extension import find_extension
from ragcore.store.postgres.index import IndexKind

__all__ = ["measure_capacity", "run"]

KINDS: tuple[IndexKind, ...] = ("vector", "halfvec", "binary")
TENANT = "grid"
TOP_K = 10
DIMENSIONS = (384, 768, 1_536)
# The numbers of rows of 384 dimensions. Rows double from the smallest to the largest; at a larger dimension, there are fewer rows with as many numbers.
SMALLEST, LARGEST = 10_000, 40_000
ROUNDS = 4
# In each round, a build is repeated until the builds have taken so many seconds, and at most so many times.
LONG, BUILDS = 6.0, 3
# How often each question is asked in a round. With 3 times in each of 4 rounds, the smallest time of a point was still up to 30 % away from its neighbours'.
PASSES = 10
MEMORY = "2GB"
# The memory of a build that is too small for its graph, to find out how many rows fit into it.
SMALL = 8
# One process builds each index, so that its processor time is that of one core. Vacuum runs between the measurements and not beside them.
GRID_SETTINGS = {**SETTINGS, "max_parallel_maintenance_workers": "0", "autovacuum": "off"}
# Rows of a cluster of the made vectors, whatever their number. With 50 rows in a cluster, a search that keeps 100 candidates took two to three times as
# long, because it then looks for the others in all other clusters.
CLUSTER_ROWS = 200
# By the name of a measure: the column of the table, and what makes a model of points of one kind.
MEASURES: dict[str, tuple[str, Callable[[Sequence[Point]], Model]]] = {
    "index": ("index MB", layout_of_index),
    "table": ("table MB", layout_of_table),
    "build": ("build s", build_time),
    "search": ("search ms", search_time),
}
FITTED = ("build", "search")
# Numbers of rows for which the model predicts what is not measured.
LARGER = (1_000_000, 10_000_000, 100_000_000)
MOST_ERROR = 0.2
# With fewer points of a kind, a model with three parameters is not fitted.
LEAST_POINTS = 6


def run(
    *,
    quick: bool,
    largest: Annotated[int, typer.Option(help="Largest number of rows of 384 dimensions.")] = LARGEST,
    questions: Annotated[int, typer.Option(help="Number of questions of each point.")] = 100,
) -> Figures:
    """Measure all points. With --quick: one small point for each of two dimensions, by 50 questions."""
    figures = Figures()
    anyio.run(lambda: measure_capacity(figures, quick=quick, largest=largest, questions=questions))
    return figures


async def measure_capacity(figures: Figures, *, quick: bool, largest: int = LARGEST, questions: int = 100) -> None:
    """Add the figures of each point, and `capacity_error`: the largest error of the model for a point that it was not fitted to."""
    grid: list[_Point] = []
    async with server(GRID_SETTINGS) as running:
        owner_dsn, dsn = running.owner_dsn.reveal(), running.dsn.reveal()
        sizes = [
            (Chunks(dimension=dimension, words=1, clusters=max(2, rows // CLUSTER_ROWS)), rows)
            for dimension in (DIMENSIONS[:2] if quick else DIMENSIONS)
            for rows in _counts(dimension, 1_250 if quick else largest)
        ]
        figures.notes += [f"made vectors of {rows} rows: {chunks}" for chunks, rows in sizes]
        for chunks, rows in sizes:
            schema = _schema(chunks.dimension, rows)
            await migrate(
                owner_dsn,
                model=MODEL,
                dimension=chunks.dimension,
                role="ragcore",
                schema=schema,
                index=Index(kind="none"),
            )
        async with connected(owner_dsn) as owner:
            for chunks, rows in sizes:
                grid.append(await _filled(owner, chunks, rows, 50 if quick else questions))
            # All points once, then all again: a machine that is slow for some minutes then spoils one round of a point, and not all.
            for number in range(1 if quick else ROUNDS):
                for point in grid:
                    say(f"round {number + 1}: {point.rows} rows of {point.dimension} dimensions …")
                    for kind in KINDS:
                        await _measure(owner, owner_dsn, dsn, point, kind)
    figures.notes.append(
        "Build and search are processor time of PostgreSQL's processes, so other processes of the machine matter little. "
        f"Settings: {', '.join(f'{name} {value}' for name, value in GRID_SETTINGS.items())}; maintenance_work_mem {MEMORY}."
    )
    table = [row for point in grid for row in point.table()]
    figures.tables.append(Table("Kinds of indexes by rows and dimension", table))
    for row in table:
        name = f"{row['index']}_{row['dimensions']}"
        for column in ("index MB", "table MB", "build s", "search ms", "searches/s", "recall@10"):
            figures.values[f"{name}_{row['rows']}.{column}"] = row[column]
        # Of the largest number of rows, which comes last.
        for column in ("index", "table"):
            figures.values[f"{name}.{column} B/row"] = 1e6 * float(row[f"{column} MB"] or 0) / float(row["rows"] or 1)
        figures.values[f"{name}.memory B/row"] = row["memory B/row"]
    _predict(figures, table)


@dataclass
class _Measured:
    """What was measured of one kind of index at one point.

    Attributes:
        bytes: size of the index.
        build: smallest processor time of a build, in seconds.
        times: smallest processor time of a search for each question, in seconds.
        recall: recall@10.
        walks: whether the searches walk through the index.
        memory: memory that a build's graph needs for a row, in bytes; None: not known.
    """

    bytes: int
    build: float
    times: list[float]
    recall: float
    walks: bool
    memory: float | None = None


@dataclass
class _Point:
    """A collection of the grid.

    Attributes:
        schema: name of its schema.
        dimension, rows: dimension and number of its chunks.
        bytes: size of its table.
        asked: vectors of the questions.
        right: ids of the nearest chunks of each question.
        measured: what was measured, by the kind of the index.
    """

    schema: str
    dimension: int
    rows: int
    bytes: int
    asked: Vectors
    right: list[set[str]]
    measured: dict[IndexKind, _Measured] = field(default_factory=dict)

    def table(self) -> list[dict[str, Value]]:
        """Return a row for each kind of index."""
        return [
            {
                "index": kind,
                "dimensions": self.dimension,
                "rows": self.rows,
                "table MB": self.bytes / 1e6,
                "walks": int(found.walks),
                "index MB": found.bytes / 1e6,
                "build s": found.build,
                "search ms": 1_000 * statistics.fmean(found.times),
                "searches/s": 1 / statistics.fmean(found.times),
                "recall@10": found.recall,
                "memory B/row": found.memory,
            }
            for kind, found in self.measured.items()
        ]


def _counts(dimension: int, largest: int) -> list[int]:
    """Return the numbers of rows of a dimension, ascending."""
    counts = [largest * DIMENSIONS[0] // dimension]
    while counts[0] >= 2 * SMALLEST * DIMENSIONS[0] // dimension:
        counts.insert(0, counts[0] // 2)
    return counts


def _schema(dimension: int, rows: int) -> str:
    return f"grid_{dimension}_{rows}"


async def _filled(owner: Owner, chunks: Chunks, rows: int, questions: int) -> _Point:
    """Fill a collection."""
    dimension, schema = chunks.dimension, _schema(chunks.dimension, rows)
    say(f"{rows} rows of {dimension} dimensions …")
    documents = list(chunks.documents("grid", rows))
    await copy_in(owner, schema, TENANT, iter(documents))
    await owner.execute(f"vacuum analyze {schema}.chunk")
    size = "select pg_table_size($1::regclass) + pg_indexes_size($1::regclass)"
    asked = chunks.vectors("questions", questions)
    ids = [chunk.id for one in documents for chunk in one.chunks]
    right = _nearest(asked, np.vstack([one.vectors for one in documents]), ids)
    return _Point(schema, dimension, rows, await owner.fetchval(size, f"{schema}.chunk"), asked, right)


async def _measure(owner: Owner, owner_dsn: str, dsn: str, point: _Point, kind: IndexKind) -> None:
    """Build an index, search, and remove it. Of each time, the smallest of all rounds counts, because other processes take processor caches away."""
    schema, known = point.schema, point.measured.get(kind)
    await owner.execute(f"set maintenance_work_mem = '{MEMORY}'")
    definition = await _definition(owner, schema, kind, point.dimension)
    builds: list[float] = []
    while not builds or (len(builds) < BUILDS and sum(builds) < LONG):
        await owner.execute(f"drop index if exists {schema}.chunk_embedding")
        # Built through this connection and not by `build_index`, because the processor time of a process can be read only while it runs.
        before = processor_seconds([owner.get_server_pid()])
        await owner.execute(f"create index chunk_embedding {definition}")
        builds.append(processor_seconds([owner.get_server_pid()]) - before)
    build = min(builds)
    # Finds the index, and records its kind.
    built = await build_index(owner_dsn, schema=schema, kind=kind, keep_seconds=0)
    assert not built.built
    queries = [Query(question="", tenant=TENANT, mode="vector", top_k=TOP_K, vector=vector) for vector in point.asked]
    async with PgVectorStore(dsn, schema=schema, exact_rows=0, pool_size=1) as store:
        # The first searches fill the caches, and find out that the tenant is large.
        found = [{passage.chunk_id for passage in await store.search(query)} for query in queries]
        walks = bool((await store.explain(queries[0])).uses_vector_index)
        pids = await backends(owner)
        times = [math.inf] * len(queries)
        for _ in range(PASSES):
            for number, query in enumerate(queries):
                before = processor_seconds(pids)
                await store.search(query)
                times[number] = min(times[number], processor_seconds(pids) - before)
    await owner.execute(f"drop index {schema}.chunk_embedding")
    if known is not None:
        known.build, known.times = min(known.build, build), [*map(min, known.times, times)]
        return
    recall = statistics.fmean(len(one & other) / TOP_K for one, other in zip(point.right, found, strict=True))
    memory = await _memory(owner, schema, kind, point.dimension)
    point.measured[kind] = _Measured(built.bytes, build, times, recall, walks, memory)


async def _memory(owner: Owner, schema: str, kind: IndexKind, dimension: int) -> float | None:
    """Return the memory that a build's graph needs for a row, in bytes, from the number of rows that fit into a small memory. None: all rows fit."""
    told = anyio.Event()
    fitting: list[int] = []

    def hear(_: object, message: asyncpg.PostgresLogMessage) -> None:
        text = str(message)
        if "no longer fits" in text:
            fitting.append(int("".join(filter(str.isdigit, text.rpartition("after")[2]))))
            told.set()

    async def cancel(scope: anyio.CancelScope) -> None:
        await told.wait()
        scope.cancel()

    on = await _definition(owner, schema, kind, dimension)
    owner.add_log_listener(hear)
    try:
        await owner.execute(f"set maintenance_work_mem = '{SMALL}MB'")
        async with anyio.create_task_group() as group:
            group.start_soon(cancel, group.cancel_scope)
            # asyncpg cancels the statement on the server if the task is cancelled.
            await owner.execute(f"create index too_large {on}")
            group.cancel_scope.cancel()
    finally:
        owner.remove_log_listener(hear)
    await owner.execute(f"drop index if exists {schema}.too_large")
    return SMALL * 2**20 / fitting[0] if fitting else None


async def _definition(owner: Owner, schema: str, kind: IndexKind, dimension: int) -> str:
    extension = await find_extension(owner)
    return Index(kind=kind).definition(f"{schema}.chunk", vector=extension.schema, dimension=dimension)


def _nearest(asked: Vectors, vectors: Vectors, ids: Sequence[str]) -> list[set[str]]:
    best = np.argpartition(-(asked @ vectors.T), TOP_K, axis=1)[:, :TOP_K]
    return [{ids[number] for number in row} for row in best]


def _predict(figures: Figures, rows: Sequence[dict[str, Value]]) -> None:
    """Leave out each point in turn, predict it from the others, and report the errors. Then predict larger collections from all points."""
    errors: dict[str, float] = {}
    for measure, (column, fit) in MEASURES.items():
        points = [
            Point(_kind(row), int(row["rows"] or 0), int(row["dimensions"] or 0), float(row[column] or 0))
            for row in rows
            # A model of a walk can't predict searches that compare all vectors.
            if measure != "search" or row["walks"]
        ]
        if measure in FITTED and len(points) < LEAST_POINTS * len(KINDS):
            continue
        predicted = left_out(points, fit)
        differing = [abs(value / point.value - 1) for point, value in predicted]
        errors[measure] = max(differing)
        figures.values[f"capacity_error_{measure}"] = errors[measure]
        figures.values[f"capacity_median_error_{measure}"] = statistics.median(differing)
        table: list[dict[str, Value]] = [
            {
                "index": point.kind,
                "dimensions": point.dimension,
                "rows": point.rows,
                "measured": point.value,
                "predicted": value,
                "error": value / point.value - 1,
            }
            for point, value in predicted
        ]
        figures.tables.append(Table(f"Predicted without the point: {column}", table))
        figures.charts.append(_chart(column, predicted))
        for kind in KINDS:
            model = fit([point for point in points if point.kind == kind])
            for dimension, count in itertools.product(DIMENSIONS[::2], LARGER):
                figures.values[f"predicted.{kind}_{dimension}_{count}.{column}"] = model(count, dimension)
    figures.values["capacity_error"] = max(errors.values())
    figures.expect(max(errors.values()) <= MOST_ERROR, f"capacity_error <= {MOST_ERROR}")


def _kind(row: dict[str, Value]) -> IndexKind:
    return next(kind for kind in KINDS if kind == row["index"])


def _chart(column: str, predicted: Sequence[tuple[Point, float]]) -> Chart:
    lines = []
    for kind, dimension in itertools.product(KINDS, DIMENSIONS):
        own = [(point, value) for point, value in predicted if (point.kind, point.dimension) == (kind, dimension)]
        places = [point.rows for point, _ in own]
        lines.append(Line(f"{kind}, {dimension}", places, [point.value for point, _ in own]))
        lines.append(Line(f"{kind}, {dimension}, predicted", places, [value for _, value in own]))
    return Chart(column, "rows", column, lines, log="xy")

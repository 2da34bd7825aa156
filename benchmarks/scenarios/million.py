"""Measures searches, recall and ingestion in a collection of a million made chunks and 1,000 tenants, in one table and in partitions."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Annotated

import anyio
import typer

from benchmarks.capacity.chunks import MODEL, Chunks, copy_in
from benchmarks.capacity.server import SETTINGS, Owner, connected, server
from ragcore import PgVectorStore, Query
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.figures import Figures, Table, Value, say
from ragcore.protocols import EmbeddedDocument
from ragcore.store import Index, build_index, migrate
from ragcore.store.postgres.index import IndexKind
from ragcore.types import Mode

__all__ = ["measure_million", "run"]

DIMENSION = 384
KIND: IndexKind = "halfvec"
TOP_K = 10
AT_ONCE = 50
MEMORY = "2GB"
MIDDLE_CHUNKS, SMALL_CHUNKS = 10_000, 700
SMALL_COLLECTION = 10_000
PARTITIONS = 16
# Documents of 50 chunks in one transaction.
DOCUMENTS_AT_ONCE = 4
# The searches of a size go to at most this number of tenants. Each is searched once before, so that its size is known.
TENANTS = 50
MODES: tuple[Mode, ...] = ("vector", "hybrid")
MOST_RATIO = 3.0


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection and its tenants by size.

    Attributes:
        schema: name of its schema.
        tenants: number of chunks of each tenant, by size ("large", "middle", "small") and name.
        partitions: number of its partitions; 0: one table.
    """

    schema: str
    tenants: dict[str, dict[str, int]]
    partitions: int = 0

    @classmethod
    def of(cls, schema: str, rows: int, *, partitions: int = 0) -> Collection:
        """Return a collection in which one tenant has a fifth of all chunks, each tenth of a million is a tenant of 10,000, and the others have 700 each."""
        sizes = {
            "large": [rows // 5],
            "middle": [min(MIDDLE_CHUNKS, rows // 10)] * max(1, rows // (10 * MIDDLE_CHUNKS)),
        }
        left = rows - sum(map(sum, sizes.values()))
        sizes["small"] = [SMALL_CHUNKS] * (left // SMALL_CHUNKS)
        tenants = {
            size: {f"{size}-{number}": count for number, count in enumerate(counts)} for size, counts in sizes.items()
        }
        return cls(schema, tenants, partitions)

    @classmethod
    def small(cls, schema: str, rows: int) -> Collection:
        """Return a collection of small tenants only."""
        return cls(schema, {"small": {f"small-{number}": SMALL_CHUNKS for number in range(rows // SMALL_CHUNKS)}})

    @property
    def rows(self) -> int:
        """Number of all chunks."""
        return sum(sum(tenants.values()) for tenants in self.tenants.values())


@dataclass
class Searches:
    """The seconds of each search, in one collection, of tenants of one size, by one mode."""

    collection: str
    store: PgVectorStore
    size: str
    mode: Mode
    queries: list[Query]
    seconds: list[float] = field(default_factory=list)


def run(
    *,
    quick: bool,
    rows: Annotated[int, typer.Option(help="Number of chunks.")] = 1_000_000,
    partitions: Annotated[
        int, typer.Option(help="Number of partitions of the second collection; 0: none.")
    ] = PARTITIONS,
    searches: Annotated[int, typer.Option(help="Number of searches of each size and mode.")] = 2_000,
) -> Figures:
    """Fill and measure the collections. With --quick: 7,000 chunks compared with 2,100, and 100 searches."""
    figures = Figures()
    anyio.run(lambda: measure_million(figures, quick=quick, rows=rows, partitions=partitions, searches=searches))
    return figures


async def measure_million(
    figures: Figures, *, quick: bool, rows: int = 1_000_000, partitions: int = PARTITIONS, searches: int = 2_000
) -> None:
    """Add the figures of a collection of `rows` chunks, and `million_p99_ratio`: the 99th percentile for small tenants, compared with 10,000 chunks."""
    if quick:
        rows, searches = min(rows, 7_000), min(searches, 100)
    chunks = Chunks(dimension=DIMENSION)
    collections = [
        Collection.small("few", 2_100 if quick else SMALL_COLLECTION),
        Collection.of("many", rows),
        *([Collection.of("parted", rows, partitions=partitions)] if partitions else []),
    ]
    figures.notes.append(
        f"made chunks: {chunks}; index: {KIND}, m 16, ef_construction 64; settings: "
        f"{', '.join(f'{name} {value}' for name, value in SETTINGS.items())}; maintenance_work_mem {MEMORY}"
    )
    async with server() as running:
        owner_dsn, dsn = running.owner_dsn.reveal(), running.dsn.reveal()
        sizes = [await _fill(owner_dsn, chunks, collection, figures) for collection in collections]
        figures.tables.append(Table("Collections", sizes))
        await _search(figures, dsn, chunks, collections, searches)
        await _recall(figures, dsn, chunks, collections[1:], 10 if quick else 50)
        await _ingest(figures, dsn, chunks, collections[1:], seconds=2.0 if quick else 20.0)
    figures.values["rows"] = rows
    ratio = float(figures.values["million_p99_ratio"] or 0)
    if not quick:
        figures.expect(ratio <= MOST_RATIO, f"million_p99_ratio <= {MOST_RATIO:g}")


async def _fill(owner_dsn: str, chunks: Chunks, collection: Collection, figures: Figures) -> dict[str, Value]:
    """Fill a collection, build its index, and return its row of the table."""
    schema = collection.schema
    await migrate(
        owner_dsn,
        model=MODEL,
        dimension=DIMENSION,
        role="ragcore",
        schema=schema,
        index=Index(kind="none"),
        partitions=collection.partitions or None,
    )
    async with connected(owner_dsn) as owner:
        began, copied = anyio.current_time(), 0
        for tenants in collection.tenants.values():
            for tenant, count in tenants.items():
                await copy_in(owner, schema, tenant, chunks.documents(tenant, count))
                copied += count
                if copied // 50_000 > (copied - count) // 50_000:
                    say(
                        f"{schema}: {copied:,} of {collection.rows:,} chunks copied, {anyio.current_time() - began:.0f} s …"
                    )
        copy_seconds = anyio.current_time() - began
        for table in ("document", "chunk", "posting"):
            await owner.execute(f"vacuum analyze {schema}.{table}")
        say(f"{schema}: building the index over {collection.rows:,} chunks …")
        built = await build_index(owner_dsn, schema=schema, kind=KIND, memory=MEMORY, keep_seconds=0)
        row: dict[str, Value] = {
            "collection": schema,
            "chunks": collection.rows,
            "tenants": sum(map(len, collection.tenants.values())),
            "partitions": collection.partitions,
            "copy s": copy_seconds,
            "build s": built.seconds,
            "index MB": built.bytes / 1e6,
            "all MB": await _megabytes(owner, schema),
        }
    figures.values |= {f"{schema}.{name}": value for name, value in row.items() if name != "collection"}
    say(
        ", ".join(
            f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
        )
    )
    return row


async def _megabytes(owner: Owner, schema: str) -> float:
    """Return the size of all tables and indexes of a collection."""
    size = "select sum(pg_relation_size(oid)) from pg_class where relnamespace = $1::regnamespace"
    return float(await owner.fetchval(size, schema)) / 1e6


async def _search(figures: Figures, dsn: str, chunks: Chunks, collections: Sequence[Collection], searches: int) -> None:
    """Search all collections in turn, 50 searches at once, and compare the small tenants."""
    async with AsyncExitStack() as stack:
        measured: list[Searches] = []
        for collection in collections:
            store = await stack.enter_async_context(_store(dsn, collection))
            for size, tenants in collection.tenants.items():
                for mode in MODES:
                    queries = _queries(chunks, list(tenants)[:TENANTS], searches, mode)
                    measured.append(Searches(collection.schema, store, size, mode, queries))
        for one in measured:
            say(f"{one.collection}: the first searches of {one.size} tenants by {one.mode} …")
            await _at_once(one.store, one.queries[: 2 * TENANTS])
        # In turn and in ten parts, so that noise of the machine affects all alike.
        for part in range(10):
            say(f"searches, part {part + 1} of 10 …")
            for one in measured:
                one.seconds += await _at_once(one.store, one.queries[part::10])
    rows: list[dict[str, Value]] = []
    for one in measured:
        row: dict[str, Value] = {"collection": one.collection, "tenants": one.size, "mode": one.mode}
        row |= {f"p{share} ms": 1_000 * percentile(one.seconds, share / 100) for share in (50, 99)}
        rows.append(row)
        for share in (50, 99):
            figures.values[f"{one.collection}.{one.size}.{one.mode}.p{share} ms"] = row[f"p{share} ms"]
    figures.tables.append(Table(f"Searches, {AT_ONCE} at once", rows))
    small = {(row["collection"], row["mode"]): float(row["p99 ms"] or 0) for row in rows if row["tenants"] == "small"}
    for collection in collections[1:]:
        ratios = {mode: small[collection.schema, mode] / small["few", mode] for mode in MODES}
        for mode, ratio in ratios.items():
            figures.values[f"{collection.schema}.p99_ratio.{mode}"] = ratio
        name = "million_p99_ratio" if collection.schema == "many" else f"million_p99_ratio_{collection.schema}"
        figures.values[name] = max(ratios.values())


async def _recall(
    figures: Figures, dsn: str, chunks: Chunks, collections: Sequence[Collection], questions: int
) -> None:
    """Compare what searches find with what an exact search finds."""
    rows: list[dict[str, Value]] = []
    for collection in collections:
        async with _store(dsn, collection) as store:
            for size, tenants in collection.tenants.items():
                say(f"{collection.schema}: recall of {size} tenants …")
                shares = []
                for query in _queries(chunks, list(tenants)[:TENANTS], questions, "vector"):
                    assert query.vector is not None
                    right = await store.scores(query.vector, tenant=query.tenant, limit=TOP_K)
                    found = {passage.chunk_id for passage in await store.search(query)}
                    shares.append(len({*right.chunk_ids} & found) / TOP_K)
                recall = statistics.fmean(shares)
                rows.append({"collection": collection.schema, "tenants": size, "recall@10": recall})
                figures.values[f"{collection.schema}.{size}.recall@10"] = recall
    figures.tables.append(Table("Recall", rows))


async def _ingest(
    figures: Figures, dsn: str, chunks: Chunks, collections: Sequence[Collection], *, seconds: float
) -> None:
    """Write new documents to a small tenant: alone, and beside 50 searches at once of small tenants."""
    rows: list[dict[str, Value]] = []
    for collection in collections:
        async with _store(dsn, collection) as store:
            small = list(collection.tenants["small"])
            queries = _queries(chunks, small[:TENANTS], 1_000, "hybrid")
            # The time limit ends the writing, unless it is faster than 500 chunks/s.
            documents = chunks.documents("new", int(1_000 * seconds))
            for beside in (False, True):
                say(f"{collection.schema}: ingesting {'beside searches' if beside else 'alone'} …")
                times: list[float] = []
                async with anyio.create_task_group() as group:
                    if beside:
                        group.start_soon(_keep_searching, store, queries, times)
                    rate = await _written(store, documents, small[-1], seconds)
                    group.cancel_scope.cancel()
                row: dict[str, Value] = {
                    "collection": collection.schema,
                    "searches": AT_ONCE if beside else 0,
                    "chunks/s": rate,
                    "p50 ms": 1_000 * percentile(times, 0.5) if times else None,
                    "p99 ms": 1_000 * percentile(times, 0.99) if times else None,
                }
                rows.append(row)
                name = f"{collection.schema}.{'beside_searches' if beside else 'alone'}"
                figures.values |= {
                    f"{name}.{column}": row[column]
                    for column in ("chunks/s", "p50 ms", "p99 ms")
                    if row[column] is not None
                }
    figures.tables.append(Table("Ingestion, alone and beside searches of small tenants", rows))


async def _written(store: PgVectorStore, documents: Iterator[EmbeddedDocument], tenant: str, seconds: float) -> float:
    """Write documents for so many seconds, and return the chunks per second."""
    began, written = anyio.current_time(), 0
    while anyio.current_time() - began < seconds and (some := list(islice(documents, DOCUMENTS_AT_ONCE))):
        await store.upsert(some, tenant=tenant)
        written += sum(len(embedded.chunks) for embedded in some)
    return written / (anyio.current_time() - began)


async def _keep_searching(store: PgVectorStore, queries: Sequence[Query], times: list[float]) -> None:
    """Search until cancelled, and append the seconds of each search."""
    numbers = cycle(range(len(queries)))

    async def user() -> None:
        for number in numbers:
            seconds = await _timed(store, queries[number])
            times.append(seconds)

    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(user)


async def _at_once(store: PgVectorStore, queries: Sequence[Query]) -> list[float]:
    """Search for all queries, 50 at once, and return the seconds of each."""
    times: list[float] = []
    left = iter(queries)

    async def user() -> None:
        for query in left:
            seconds = await _timed(store, query)
            times.append(seconds)

    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(user)
    return times


async def _timed(store: PgVectorStore, query: Query) -> float:
    began = anyio.current_time()
    assert len(await store.search(query)) == query.top_k
    return anyio.current_time() - began


def _queries(chunks: Chunks, tenants: Sequence[str], count: int, mode: Mode) -> list[Query]:
    """Return questions of made words to these tenants in turn."""
    asked = zip(chunks.texts("questions", count), chunks.vectors("questions", count), cycle(tenants), strict=False)
    return [
        Query(question=text, tenant=tenant, mode=mode, top_k=TOP_K, vector=vector) for text, vector, tenant in asked
    ]


def _store(dsn: str, collection: Collection) -> PgVectorStore:
    return PgVectorStore(dsn, schema=collection.schema)

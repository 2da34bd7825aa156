"""Recall, nDCG and latency over squad, exact and through the index, with one embedded PostgreSQL."""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import asyncpg
import numpy as np
from pgvector.asyncpg import register_vector
from tests.support.squad import SQUAD, TENANT, Squad, Widened, ingested, read_documents

from benchmarks.scenarios.adopted import adopted
from benchmarks.scenarios.crowd import empty_beside_found, starved, text_of_large_tenants
from benchmarks.scenarios.earlier import beside_release_0_1
from benchmarks.scenarios.indexes import kinds_of_indexes
from ragcore import Filter, PgVectorStore, Query, Secret, meta
from ragcore.ingest import Ingestor
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.figures import Chart, Figures, Line, Table, Value, say
from ragcore.store import migrate
from ragcore.types import Mode

# The recall@5 of an exact search over the reference vectors, from SOURCE.md next to the data.
REFERENCE_RECALL_5 = 0.8640


def run(*, quick: bool) -> Figures:
    """All passages and every 4th question. With --quick: every 40th question, with the passages' reference vectors."""
    return anyio.run(_run, quick)


async def _run(quick: bool) -> Figures:
    step = 40 if quick else 4
    figures = Figures()
    async with ingested(reference=quick) as squad:
        for mode in ("vector", "text", "hybrid"):
            say(f"searching by {mode} …")
            figures.values.update(await _mode(squad, squad.store, mode, step))
        say("searching through the index …")
        exact = [
            (await squad.store.scores(vector, tenant=TENANT, limit=10)).chunk_ids for vector in squad.vectors[::step]
        ]
        async with PgVectorStore(squad.store._address.dsn, exact_rows=0) as indexed:
            found = [
                [p.chunk_id for p in await indexed.search(_query(squad, number, "vector"))]
                for number in range(0, len(squad.questions), step)
            ]
        figures.values["recall_at_10"] = statistics.fmean(
            len({*one} & {*other}) / len(one) for one, other in zip(exact, found, strict=True)
        )
        figures.values["statements_per_retrieval"] = await _statements(squad)
        await beside_release_0_1(squad, figures, quick=quick)
        await _recall_against_rate(squad, figures, step)
        await _by_selectivity(squad, figures, step)
        await _beside_by_hand(squad, figures, quick=quick)
        await adopted(squad, figures, calls_per_second=_calls_per_second, quick=quick)
        await empty_beside_found(figures, squad.store, [_query(squad, number, "vector") for number in range(200)])
        await _in_half_precision(squad, figures, step, passages=500 if quick else None)
        dsn = squad.store._address.dsn.reveal()
        await kinds_of_indexes(figures, squad.owner_dsn, dsn, quick=quick)
        await starved(figures, squad.owner_dsn, dsn, quick=quick)
        await text_of_large_tenants(figures, squad.owner_dsn, dsn, quick=quick)
    recall = figures.values["recall_5_vector"]
    assert isinstance(recall, float)
    figures.expect(abs(recall - _reference(step)) <= 0.01, "recall_5_vector within 0.01 of exact brute force")
    figures.expect(figures.values["statements_per_retrieval"] == 1, "one statement per retrieval")
    # Quality is judged over many questions only.
    for name, least in () if quick else (("ndcg_text", 0.885), ("ndcg_hybrid", 0.90)):
        value = figures.values[name]
        figures.expect(isinstance(value, float) and value >= least, f"{name} >= {least}")
    best_half = max(float(figures.values[f"ndcg_{mode}"] or 0) for mode in ("vector", "text"))
    figures.expect(float(figures.values["ndcg_hybrid"] or 0) >= best_half, "ndcg_hybrid >= ndcg of both halves")
    for mode in ("text", "hybrid"):
        value = figures.values[f"{mode}_ms_ratio"]
        figures.expect(isinstance(value, float) and value <= 1.5, f"{mode}_ms_ratio <= 1.5")
    for name in ("recall_at_10_starved", "recall_at_10_filtered"):
        value = figures.values[name]
        figures.expect(isinstance(value, float) and value >= 0.99, f"{name} >= 0.99")
    for concurrency in (1, 10, 50):
        value = figures.values[f"qps_ratio_{concurrency}"]
        figures.expect(isinstance(value, float) and value >= 0.85, f"qps_ratio_{concurrency} >= 0.85")
    return figures


def _query(squad: Squad, number: int, mode: Mode, top_k: int = 10) -> Query:
    vector = None if mode == "text" else squad.vectors[number]
    return Query(question=squad.questions[number], tenant=TENANT, mode=mode, top_k=top_k, vector=vector)


async def _mode(squad: Squad, store: PgVectorStore, mode: Mode, step: int) -> dict[str, Any]:
    ranks, seconds = [], []
    for number in range(0, len(squad.questions), step):
        query = replace(_query(squad, number, mode), top_k=20)  # passages of one document may be two chunks
        began = anyio.current_time()
        passages = await store.search(query)
        seconds.append(anyio.current_time() - began)
        ranking = list(dict.fromkeys(passage.document_id for passage in passages))
        relevant = squad.relevant[number]
        ranks.append(ranking.index(relevant) + 1 if relevant in ranking else math.inf)
    return {
        f"recall_5_{mode}": statistics.fmean(rank <= 5 for rank in ranks),
        f"mrr_{mode}": statistics.fmean(1 / rank for rank in ranks),
        f"ndcg_{mode}": statistics.fmean(1 / math.log2(rank + 1) if rank <= 10 else 0.0 for rank in ranks),
        f"p50_ms_{mode}": 1000 * percentile(seconds, 0.5),
        f"p95_ms_{mode}": 1000 * percentile(seconds, 0.95),
    }


def _reference(step: int) -> float:
    """Return the recall of brute force over the reference vectors for the same questions. For all questions, use the known figure."""
    data = np.load(SQUAD / "embeddings.npz")
    labels = dict(line.split("\t")[:2] for line in (SQUAD / "qrels.tsv").read_text().splitlines())
    corpus, queries = data["corpus"].astype(np.float32), data["queries"][::step].astype(np.float32)
    best = np.argsort(-(queries @ corpus.T), axis=1)[:, :5]
    wanted = [labels[str(question)] for question in data["query_ids"][::step]]
    return statistics.fmean(label in data["corpus_ids"][row] for label, row in zip(wanted, best, strict=True))


async def _recall_against_rate(squad: Squad, figures: Figures, step: int) -> None:
    """Measure recall@10 and searches a second for several values of ef_search."""
    exact = await _found(squad, squad.store, step)
    rows: list[dict[str, Value]] = []
    for ef_search in (10, 20, 40, 80, 100, 200, 400):
        say(f"through the index, ef_search {ef_search} …")
        async with PgVectorStore(squad.store._address.dsn, exact_rows=0, ef_search=ef_search) as store:
            recall = _recall(exact, await _found(squad, store, step))
            rows.append({"ef_search": ef_search, "recall@10": recall, "searches/s": await _rate(squad, store)})
    rows.append({"ef_search": "exact", "recall@10": 1.0, "searches/s": await _rate(squad, squad.store)})
    figures.tables.append(Table("Recall against searches a second (10 at once)", rows))
    index = rows[:-1]
    recalls, rates = ([float(row[name] or 0) for row in index] for name in ("recall@10", "searches/s"))
    lines = [Line("HNSW, by ef_search", recalls, rates), Line("exact", [1.0], [float(rows[-1]["searches/s"] or 0)])]
    figures.charts.append(Chart("Recall against searches a second", "recall@10", "searches a second", lines))


async def _by_selectivity(squad: Squad, figures: Figures, step: int) -> None:
    """Measure filters that pass different shares of the documents."""
    rows: list[dict[str, Value]] = []
    async with PgVectorStore(squad.store._address.dsn, exact_rows=0) as indexed:
        for percent in (1, 5, 10, 50, 100):
            say(f"a filter that passes {percent} % …")
            passing = meta("share").lt(percent)
            exact = await _found(squad, squad.store, 4 * step, filter=passing)
            recall = _recall(exact, await _found(squad, indexed, 4 * step, filter=passing))
            rows.append(
                {"passes %": percent, "recall@10": recall, "searches/s": await _rate(squad, indexed, filter=passing)}
            )
    figures.tables.append(Table("Filters by selectivity, through the index", rows))
    figures.values["recall_at_10_filtered"] = min(float(row["recall@10"] or 0) for row in rows)


async def _beside_by_hand(squad: Squad, figures: Figures, *, quick: bool) -> None:
    """Compare searches a second with hand-written asyncpg and the same SQL, in turn, both through the index with an ef_search of 40.

    The hand-written code has the tenant in WHERE, settings of the session, and the owner role, to which no policy applies. It runs once with asyncpg's
    own pool, which resets each returned connection, and once without that reset (`lean`).
    """
    settings = {"hnsw.ef_search": "40", "hnsw.iterative_scan": "relaxed_order"}
    pools = {
        "": await asyncpg.create_pool(
            squad.owner_dsn, min_size=10, max_size=10, init=register_vector, server_settings=settings
        ),
        "_lean": await asyncpg.create_pool(
            squad.owner_dsn, min_size=10, max_size=10, init=register_vector, server_settings=settings, reset=_keep
        ),
    }
    pool = pools[""]
    statement = (
        "select id, document_id, text, title, source, start_char, end_char, metadata, 1 - (embedding <=> $2) as score "
        "from ragcore.chunk where tenant = $1 order by embedding <=> $2 limit 10"
    )
    await pool.execute("analyze ragcore.chunk")
    plan = await pool.fetch(f"explain {statement}", TENANT, squad.vectors[0])
    if not any("chunk_embedding" in row[0] for row in plan):
        figures.notes.append(f"PostgreSQL did not use the index for the hand-written statement: {plan[1][0].strip()}")

    async def by_hand(number: int, pool: asyncpg.Pool[asyncpg.Record] = pool) -> None:
        async with pool.acquire() as connection:
            await connection.fetch(statement, TENANT, squad.vectors[number])

    async def lean(number: int) -> None:
        await by_hand(number, pools["_lean"])

    async with PgVectorStore(squad.store._address.dsn, exact_rows=0, ef_search=40) as store:

        async def ours(number: int) -> None:
            await store.search(_query(squad, number, "vector"))

        for concurrency in (1, 10, 50):
            say(f"compared with a hand-written statement, {concurrency} at once …")
            ratios: dict[str, list[float]] = {"": [], "_lean": []}
            for _ in range(3 if quick else 9):
                own = await _calls_per_second(ours, concurrency, seconds=0.4)
                ratios[""].append(own / await _calls_per_second(by_hand, concurrency, seconds=0.4))
                ratios["_lean"].append(own / await _calls_per_second(lean, concurrency, seconds=0.4))
            for name, measured in ratios.items():
                figures.values[f"qps_ratio_{concurrency}{name}"] = statistics.median(measured)
    for one in pools.values():
        await one.close()


async def _keep(_: object) -> None:
    """Skip the reset of a returned connection."""


async def _in_half_precision(squad: Squad, figures: Figures, step: int, *, passages: int | None) -> None:
    """Measure recall@10 and the speed-up for vectors of 3,072 dimensions, which are indexed in half precision."""
    say("vectors of 3,072 dimensions …")
    embedder = Widened()
    owner = await asyncpg.connect(squad.owner_dsn)
    await owner.execute("create database half")
    await owner.close()
    store_dsn, owner_dsn = (
        dsn.replace("/ragcore?", "/half?") for dsn in (squad.store._address.dsn.reveal(), squad.owner_dsn)
    )
    await migrate(owner_dsn, model=embedder.model, dimension=embedder.dimension, role="ragcore")
    async with PgVectorStore(store_dsn, exact_rows=0) as indexed, PgVectorStore(store_dsn, exact_rows=100_000) as exact:
        ingestor = Ingestor(embedder=embedder, store=indexed, chunk_tokens=embedder.max_tokens, embed_text="text")
        await ingestor.add(read_documents(passages), tenant=TENANT)
        owner = await asyncpg.connect(owner_dsn)
        await owner.execute("analyze ragcore.chunk")
        await owner.close()
        half = replace(squad, vectors=embedder.widen(squad.vectors))
        right, found = await _found(half, exact, step), await _found(half, indexed, step)
        figures.values["recall_at_10_3072"] = _recall(right, found)
        exact_rate = await _rate(half, exact)
        figures.values["qps_ratio_halfvec_to_exact"] = await _rate(half, indexed) / exact_rate


async def _found(squad: Squad, store: PgVectorStore, step: int, *, filter: Filter | None = None) -> list[set[str]]:
    return [
        {passage.chunk_id for passage in await store.search(replace(_query(squad, number, "vector"), filter=filter))}
        for number in range(0, len(squad.questions), step)
    ]


def _recall(exact: list[set[str]], found: list[set[str]]) -> float:
    return statistics.fmean(len(one & other) / len(one) for one, other in zip(exact, found, strict=True) if one)


async def _rate(squad: Squad, store: PgVectorStore, *, filter: Filter | None = None) -> float:
    async def one(number: int) -> None:
        await store.search(replace(_query(squad, number, "vector"), filter=filter))

    return await _calls_per_second(one, 10, seconds=0.5)


async def _calls_per_second(call: Callable[[int], Awaitable[None]], concurrency: int, *, seconds: float) -> float:
    until = anyio.current_time() + seconds
    count = 0

    async def user(number: int) -> None:
        nonlocal count
        while anyio.current_time() < until:
            await call((number + 97 * count) % 1_000)
            count += 1

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for number in range(concurrency):
            group.start_soon(user, number)
    return count / (anyio.current_time() - began)


async def _statements(squad: Squad) -> int:
    """Return the number of transactions that PostgreSQL counts for one retrieval on a warm connection."""
    owner = await asyncpg.connect(Secret(squad.owner_dsn).reveal())
    try:
        database = await owner.fetchval("select current_database()")

        async def transactions() -> int:
            for _ in range(3):  # a session reports its counters at most once a second, and only while it works
                await anyio.sleep(1.1)
                await squad.store.ping()
            return int(await owner.fetchval("select xact_commit from pg_stat_database where datname = $1", database))

        before = await transactions()
        for number in range(100):
            await squad.store.search(_query(squad, number, "hybrid"))
        return round((await transactions() - before) / 100)
    finally:
        await owner.close()

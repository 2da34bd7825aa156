"""Recall, nDCG and latency over squad, exact and through the index, with one embedded PostgreSQL."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import anyio
import numpy as np

from benchmarks.estimates import percentile
from benchmarks.figures import Figures, say
from benchmarks.world.squad import SQUAD, TENANT, Squad, ingested
from ragcore import PgVectorStore, Query, Secret
from ragcore.types import Mode

# Exact brute force over the reference vectors: SOURCE.md beside the data.
REFERENCE_RECALL_5 = 0.8640


def run(*, quick: bool) -> Figures:
    """All passages; every 4th question, or quickly every 40th with the passages' reference vectors."""
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
    recall = figures.values["recall_5_vector"]
    assert isinstance(recall, float)
    figures.expect(abs(recall - _reference(step)) <= 0.01, "recall_5_vector within 0.01 of exact brute force")
    figures.expect(figures.values["statements_per_retrieval"] == 1, "one statement per retrieval")
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
        f"ndcg_{mode}": statistics.fmean(1 / math.log2(rank + 1) if rank <= 10 else 0.0 for rank in ranks),
        f"p50_ms_{mode}": 1000 * percentile(seconds, 0.5),
        f"p95_ms_{mode}": 1000 * percentile(seconds, 0.95),
    }


def _reference(step: int) -> float:
    """Brute force over the reference vectors, for the same questions: the whole set's figure where all are asked."""
    data = np.load(SQUAD / "embeddings.npz")
    labels = dict(line.split("\t")[:2] for line in (SQUAD / "qrels.tsv").read_text().splitlines())
    corpus, queries = data["corpus"].astype(np.float32), data["queries"][::step].astype(np.float32)
    best = np.argsort(-(queries @ corpus.T), axis=1)[:, :5]
    wanted = [labels[str(question)] for question in data["query_ids"][::step]]
    return statistics.fmean(label in data["corpus_ids"][row] for label, row in zip(wanted, best, strict=True))


async def _statements(squad: Squad) -> int:
    """Statements that PostgreSQL itself logs for one retrieval on a warm connection."""
    import asyncpg

    owner = await asyncpg.connect(Secret(squad.owner_dsn).reveal())
    try:
        database = await owner.fetchval("select current_database()")

        async def transactions() -> int:
            for _ in range(3):  # a session reports its counters at most once a second, and only when it does something
                await anyio.sleep(1.1)
                await squad.store.ping()
            return int(await owner.fetchval("select xact_commit from pg_stat_database where datname = $1", database))

        before = await transactions()
        for number in range(100):
            await squad.store.search(_query(squad, number, "hybrid"))
        return round((await transactions() - before) / 100)
    finally:
        await owner.close()

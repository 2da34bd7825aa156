"""Measures searches under bad conditions: another tenant's nearer chunks, long texts of common words, and thresholds that no passage reaches."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import repeat

import anyio
import numpy as np
from tests.support.made import DIMENSION, collection, copy_chunks, near, sentences

from ragcore import Filter, PgVectorStore, Query, meta
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.figures import Figures, Table, Value, say
from ragcore.store.postgres.searches import EXACT_NUMBERS
from ragcore.types import Kind, Mode

__all__ = ["empty_beside_found", "starved", "text_of_large_tenants"]

EXACT_ROWS = EXACT_NUMBERS // DIMENSION
RARE = meta("rare").eq(True)


async def starved(figures: Figures, owner_dsn: str, dsn: str, *, quick: bool) -> None:
    """Measure recall for tenants of 1.5 and 10 × `exact_rows` chunks, while another tenant's chunks are nearer to every question."""
    rows: list[dict[str, Value]] = []
    for factor in (1.5,) if quick else (1.5, 10.0):
        for flood in (10_000,) if quick else (5_000, 25_000, 100_000):
            own = int(EXACT_ROWS * factor)
            say(f"a tenant of {own} chunks, with {flood} nearer chunks of another …")
            schema = f"starved_{own}_{flood}"
            questions, right = await _flooded(owner_dsn, schema, own, flood)
            async with PgVectorStore(dsn, schema=schema) as store:
                asked: list[tuple[Mode, Filter | None]] = [
                    (mode, passing) for mode in ("vector", "hybrid") for passing in (None, RARE)
                ]
                for mode, passing in asked:
                    row = await _crowded(store, questions, right, mode, passing)
                    rows.append({"own chunks": own, "nearer chunks": flood, **row})
    figures.tables.append(Table("A tenant among nearer chunks of another", rows))
    figures.values["recall_at_10_starved"] = min(float(row["recall@10"] or 0) for row in rows)


async def _flooded(owner_dsn: str, schema: str, own: int, flood: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the questions and the tenant's vectors, by number."""
    draw = np.random.default_rng(own + flood)
    centre = draw.normal(size=DIMENSION).astype(np.float32)
    centre /= np.linalg.norm(centre)
    vectors = np.vstack([near(draw, centre, 50, 0.8), near(draw, centre, own - 50, 0.2)])
    draw.shuffle(vectors)
    async with collection(owner_dsn, schema) as owner:
        await copy_chunks(owner, schema, "own", repeat("chunk", own), vectors)
        await copy_chunks(owner, schema, "other", repeat("chunk", flood), near(draw, centre, flood, 0.85))
    questions = [near(draw, centre, 1, 0.95)[0] for _ in range(20)]
    return questions, vectors


async def _crowded(
    store: PgVectorStore,
    questions: Sequence[np.ndarray],
    vectors: np.ndarray,
    mode: Mode,
    filter: Filter | None,
) -> dict[str, Value]:
    found, seconds, scans = [], [], set()
    allowed = np.arange(0, len(vectors), 1 if filter is None else 100)
    for question in questions:
        query = Query(question="nothing", tenant="own", mode=mode, top_k=10, vector=question, filter=filter)
        await store.search(query)
        began = anyio.current_time()
        passages = await store.search(query)
        seconds.append(anyio.current_time() - began)
        scans.add(getattr(passages, "scan", None))
        best = allowed[np.argsort(-(vectors[allowed] @ question))[:10]]
        found.append(len({f"own-{number}" for number in best} & {passage.chunk_id for passage in passages}) / len(best))
    return {
        "mode": mode,
        "filter": "none" if filter is None else "keeps 1 %",
        "scan": ", ".join(sorted(map(str, scans))),
        "recall@10": statistics.fmean(found),
        "p50 ms": 1_000 * percentile(seconds, 0.5),
        "p95 ms": 1_000 * percentile(seconds, 0.95),
    }


async def text_of_large_tenants(figures: Figures, owner_dsn: str, dsn: str, *, quick: bool) -> None:
    """Compare the text search of a tenant with 200,000 generated chunks with that of a tenant with 2,000."""
    large = 20_000 if quick else 200_000
    say(f"text search for a tenant of {large} chunks …")
    async with collection(owner_dsn, "long_text", indexed=False) as owner:
        for seed, (tenant, count) in enumerate({"small": 2_000, "large": large}.items()):
            await copy_chunks(owner, "long_text", tenant, sentences(seed, count), None)
    questions = list(sentences(99, 60, words=8))
    async with PgVectorStore(dsn, schema="long_text") as store:
        seconds: dict[str, list[float]] = {"small": [], "large": []}
        for tenant in seconds:
            for question in questions[:5]:
                await store.search(Query(question=question, tenant=tenant, mode="text", top_k=5))
        for question in questions:
            for tenant, measured in seconds.items():
                began = anyio.current_time()
                passages = await store.search(Query(question=question, tenant=tenant, mode="text", top_k=5))
                measured.append(anyio.current_time() - began)
                assert len(passages) == 5
    rows: list[dict[str, Value]] = [
        {"tenant": tenant, "p50 ms": 1_000 * percentile(one, 0.5), "p95 ms": 1_000 * percentile(one, 0.95)}
        for tenant, one in seconds.items()
    ]
    figures.tables.append(Table("Text search by size of the tenant", rows))
    ratio = percentile(seconds["large"], 0.5) / percentile(seconds["small"], 0.5)
    figures.values["text_ratio_200k"] = None if quick else ratio
    if not quick:
        figures.expect(ratio <= 10, "text_ratio_200k <= 10")


async def empty_beside_found(figures: Figures, store: PgVectorStore, queries: Sequence[Query]) -> None:
    """Compare a search that finds nothing because of its threshold with a search that finds passages. Both use a retriever."""
    from ragcore import Retriever
    from ragcore.testing import FakeEmbedder

    vectors = {query.question: query.vector for query in queries}

    class Given(FakeEmbedder):
        async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> np.ndarray:
            return np.stack([np.asarray(vectors[text]) for text in texts])

    embedder = Given(dimension=DIMENSION)
    found = await store.inspect()
    embedder.model = str(found.model)
    async with Retriever(store=store, embedder=embedder) as retriever:
        seconds: dict[float, list[float]] = {-1.0: [], 0.9999: []}
        for query in [*queries[:20], *queries]:
            for threshold, measured in seconds.items():
                began = anyio.current_time()
                retrieval = await retriever.retrieve(query.question, tenant=query.tenant, score_threshold=threshold)
                measured.append(anyio.current_time() - began)
                assert bool(retrieval.passages) == (threshold < 0)
                assert threshold < 0 or (retrieval.empty and retrieval.empty.code == "below_threshold")
    figures.values["empty_ratio"] = ratio = percentile(seconds[0.9999], 0.5) / percentile(seconds[-1.0], 0.5)
    figures.expect(ratio <= 1.1, "empty_ratio <= 1.1")

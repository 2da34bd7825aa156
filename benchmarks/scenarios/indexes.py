"""Measures the kinds of indexes: recall, time of a search, size, and time of the build, over squad and over generated vectors."""

from __future__ import annotations

import statistics
from itertools import repeat
from typing import get_args

import anyio
import asyncpg
import numpy as np
from tests.support.made import Vectors, clustered, copy_chunks
from tests.support.squad import SQUAD

from ragcore import PgVectorStore, Query
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.figures import Figures, Table, Value, say
from ragcore.store import Index, build_index, migrate
from ragcore.store.postgres.extension import encode_vector, find_extension
from ragcore.store.postgres.index import IndexKind

__all__ = ["kinds_of_indexes"]

TENANT = "made"
TOP_K = 10
# The settings of the generated vectors, which stand in the report.
SEED, DIMENSION, CLUSTERS, SPREAD = 22, 1_536, 200, 1.0
LEAST = {"halfvec": 0.99, "binary": 0.97}


async def kinds_of_indexes(figures: Figures, owner_dsn: str, dsn: str, *, quick: bool) -> None:
    """Measure each kind with the store's default settings, through the index, for a tenant of any size."""
    data = np.load(SQUAD / "embeddings.npz")
    count, questions = (5_000, 100) if quick else (20_000, 500)
    made = clustered(SEED, count + questions, dimension=DIMENSION, clusters=CLUSTERS, spread=SPREAD)
    sets = {
        "squad": (data["corpus"].astype(np.float32), data["queries"][:: 100 if quick else 10].astype(np.float32)),
        "generated": (made[:count], made[count:]),
    }
    figures.notes.append(
        f"generated vectors: seed {SEED}, {count:,} vectors and {questions} questions of {DIMENSION:,} dimensions, {CLUSTERS} clusters, spread {SPREAD}"
    )
    rows: list[dict[str, Value]] = []
    for name, (chunks, asked) in sets.items():
        rows += await _kinds(name, owner_dsn, dsn, chunks, asked)
    figures.tables.append(Table("Kinds of indexes", rows))
    for kind, least in LEAST.items():
        recall = min(float(row["recall@10"] or 0) for row in rows if row["index"] == kind)
        figures.values[f"recall_at_10_{kind}"] = recall
        figures.expect(recall >= least, f"recall_at_10_{kind} >= {least}")


async def _kinds(name: str, owner_dsn: str, dsn: str, chunks: Vectors, questions: Vectors) -> list[dict[str, Value]]:
    schema = f"kinds_{name}"
    dimension = chunks.shape[1]
    await migrate(owner_dsn, model="made", dimension=dimension, role="ragcore", schema=schema, index=Index(kind="none"))
    owner = await asyncpg.connect(owner_dsn)
    try:
        extension = await find_extension(owner)
        await owner.set_type_codec(
            "vector", schema=extension.schema, encoder=encode_vector, decoder=bytes, format="binary"
        )
        await copy_chunks(owner, schema, TENANT, repeat("chunk", len(chunks)), chunks)
        await owner.execute(f"vacuum analyze {schema}.chunk")
    finally:
        await owner.close()
    right = np.argsort(-(questions @ chunks.T), axis=1)[:, :TOP_K]
    rows: list[dict[str, Value]] = []
    kind: IndexKind
    for kind in get_args(IndexKind):
        say(f"an index of the kind {kind} over {len(chunks)} vectors of {dimension} dimensions …")
        built = await build_index(owner_dsn, schema=schema, kind=kind, memory="1GB", keep_seconds=0)
        async with PgVectorStore(dsn, schema=schema, exact_rows=0) as store:
            recall, seconds = await _recall(store, questions, right)
        rows.append(
            {
                "vectors": name,
                "dimensions": dimension,
                "index": kind,
                "recall@10": recall,
                "p50 ms": 1_000 * percentile(seconds, 0.5),
                "p95 ms": 1_000 * percentile(seconds, 0.95),
                "MB": built.bytes / 1e6,
                "build s": built.seconds if built.built else 0.0,
            }
        )
    return rows


async def _recall(store: PgVectorStore, questions: Vectors, right: np.ndarray) -> tuple[float, list[float]]:
    """Return the mean recall and the seconds of each search."""
    shares, seconds = [], []
    queries = [Query(question="", tenant=TENANT, mode="vector", top_k=TOP_K, vector=question) for question in questions]
    for query in queries[:20]:  # warms up, and finds out that the tenant is large
        await store.search(query)
    for query, best in zip(queries, right, strict=True):
        began = anyio.current_time()
        passages = await store.search(query)
        seconds.append(anyio.current_time() - began)
        shares.append(len({f"{TENANT}-{number}" for number in best} & {p.chunk_id for p in passages}) / TOP_K)
    return statistics.fmean(shares), seconds

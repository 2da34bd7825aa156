"""Real input: all of squad through the local embedder into PostgreSQL, compared with exact brute force."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from benchmarks.scenarios.thresholds import held_out
from benchmarks.world.squad import Reference

from ragcore import (
    Ingestor,
    LocalEmbedder,
    MemoryStore,
    PgVectorStore,
    Query,
    Retriever,
    explore,
)
from ragcore.explore.fetching import fetch
from ragcore.ingest import read
from ragcore.store import migrate

from ..conftest import shared

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.blocking_allowed, pytest.mark.timeout(400)]

# Exact brute force: recall@5 of SOURCE.md beside the data.
REFERENCE_RECALL_5 = 0.8640
EVERY = 5
SPLITS = 10


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def questions(squad: Path) -> tuple[list[str], list[str]]:
    labels = dict(line.split("\t")[:2] for line in (squad / "qrels.tsv").read_text().splitlines())
    with gzip.open(squad / "queries.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    return [row["text"] for row in rows], [labels[row["id"]] for row in rows]


async def test_recall_is_that_of_exact_search(database: tuple[str, str]) -> None:
    squad = shared("squad")
    texts, relevant = questions(squad)
    async with LocalEmbedder() as embedder:
        await migrate(database[1], model=embedder.model, dimension=embedder.dimension, role="ragcore")
        async with PgVectorStore(database[0]) as store:
            ingestor = Ingestor(embedder=embedder, store=store, chunk_tokens=embedder.max_tokens)
            report = await ingestor.add(read(squad / "corpus.jsonl.gz"), tenant="squad")
            assert (report.added, report.failed) == (2067, ())
            again = await ingestor.add(read(squad / "corpus.jsonl.gz"), tenant="squad")
            assert (again.unchanged, again.embedding_tokens) == (2067, None)

            hits = 0
            reference = np.load(squad / "embeddings.npz")["queries"].astype(np.float32)
            asked = range(0, len(texts), EVERY)
            for number in asked:
                # A passage that is longer than the model takes is two chunks here and was cut in the reference.
                query = Query(question=texts[number], tenant="squad", mode="vector", top_k=8, vector=reference[number])
                found = list(dict.fromkeys(passage.document_id for passage in await store.search(query)))[:5]
                hits += relevant[number] in found
            ours = await embedder.embed([texts[number] for number in asked][:200], kind="query")
    assert np.abs(ours - reference[::EVERY][:200]).max() < 1e-3
    assert hits / len(asked) == pytest.approx(_brute_force(squad), abs=0.01)


def _brute_force(squad: Path) -> float:
    """The reference for the questions that were asked; for all of them it is the published figure."""
    data = np.load(squad / "embeddings.npz")
    _, relevant = questions(squad)
    corpus, queries = data["corpus"].astype(np.float32), data["queries"].astype(np.float32)
    best = np.argsort(-(queries @ corpus.T), axis=1)[:, :5]
    right = [label in data["corpus_ids"][row] for label, row in zip(relevant, best, strict=True)]
    assert np.mean(right) == pytest.approx(REFERENCE_RECALL_5, abs=5e-4)
    return float(np.mean(right[::EVERY]))


async def test_sweeps_and_evaluations_over_a_fifth_of_squad() -> None:
    """Recall and nDCG are exact search's, and a recommendation holds for questions that it has not seen. All of squad: `benchmarks thresholds`."""
    squad = shared("squad")
    labels = explore.load(squad / "qrels.tsv", tenant="squad", questions=squad / "queries.jsonl.gz")
    assert len(labels) == 10_570
    embedder, store = Reference(), MemoryStore()
    async with Retriever(embedder=embedder, store=store, top_k=10) as retriever:
        ingestor = Ingestor(embedder=embedder, store=store, chunk_tokens=embedder.max_tokens)
        await ingestor.add(read(squad / "corpus.jsonl.gz"), tenant="squad")
        evaluation = await explore.evaluate(retriever, labels[::EVERY], k=5)
        fetched = await fetch(retriever, labels[:: 2 * EVERY], progress=False)
    assert evaluation.mean("recall") == pytest.approx(_brute_force(squad), abs=0.005)
    steps = np.array([number / 100 for number in range(101)])
    for aim in get_args(explore.Aim):
        held = held_out(fetched, steps, aim, splits=SPLITS)
        assert held >= 0.8 * SPLITS, aim

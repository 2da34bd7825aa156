"""From text to table over squad, and the last step alone: COPY beside INSERT."""

from __future__ import annotations

import time

import anyio
import asyncpg
import numpy as np
from pgvector.asyncpg import register_vector

from benchmarks.figures import Figures, Table, say
from benchmarks.world.squad import TENANT, Squad, ingested, read_lines
from ragcore.ingest import Ingestor
from ragcore.ingest.chunking import cut
from ragcore.types import Document

ROWS = 2_000


def run(*, quick: bool) -> Figures:
    """All passages, or the first 600."""
    return anyio.run(_run, 600 if quick else None)


async def _run(passages: int | None) -> Figures:
    figures = Figures()
    async with ingested(passages=passages) as squad:
        report = squad.report
        figures.values["documents_per_s"] = report.added / report.seconds
        figures.values["chunks_per_s"] = report.chunks / report.seconds
        figures.values["tokens_per_s"] = (report.embedding_tokens or 0) / report.seconds
        figures.values["mb_per_s"] = squad.megabytes / report.seconds
        say("chunking alone …")
        stages = {"chunk": _chunking(squad, passages), **squad.busy.seconds}
        for stage, seconds in stages.items():
            figures.values[f"{stage}.mb_per_s"] = squad.megabytes / seconds
        figures.tables.append(
            Table(
                "By stage (they overlap)",
                [
                    {
                        "stage": stage,
                        "seconds": seconds,
                        "documents/s": report.added / seconds,
                        "chunks/s": report.chunks / seconds,
                        "MB/s": squad.megabytes / seconds,
                    }
                    for stage, seconds in (*stages.items(), ("all", report.seconds))
                ],
            )
        )
        say("a second run over the same …")
        documents = [Document(str(number), f"text {number}") for number in range(200)]
        ingestor = Ingestor(embedder=squad.embedder, store=squad.store)
        await ingestor.add(documents, tenant=TENANT)
        again = await ingestor.add(documents, tenant=TENANT)
        figures.values["unchanged_embedded"] = again.embedding_tokens or 0
        figures.expect(again.embedding_tokens is None, "a second run embeds nothing")
        figures.values["copy_ratio"] = await _copy_beside_insert(squad.owner_dsn)
    return figures


def _chunking(squad: Squad, passages: int | None) -> float:
    """Seconds to cut every document, with nothing else going on."""
    embedder = squad.embedder
    documents = [Document(row["id"], row["text"]) for row in read_lines("corpus.jsonl.gz")[:passages]]
    began = time.perf_counter()
    for document in documents:
        cut(document, count_tokens=embedder.count_tokens, chunk_tokens=embedder.max_tokens, overlap_tokens=0)
    return time.perf_counter() - began


async def _copy_beside_insert(dsn: str) -> float:
    """Rows per second of COPY, divided by those of INSERT one by one, into like tables without an index."""
    connection = await asyncpg.connect(dsn)
    try:
        await register_vector(connection)
        await connection.execute("create temporary table rows (id text, text text, embedding vector(384))")
        vectors = np.random.default_rng(0).normal(size=(ROWS, 384)).astype(np.float32)
        records = [(str(number), "words " * 40, vector) for number, vector in enumerate(vectors)]
        ratios = []
        for _ in range(3):
            began = time.perf_counter()
            await connection.copy_records_to_table("rows", records=records)
            copied = time.perf_counter()
            async with connection.transaction():
                await connection.executemany("insert into rows values ($1, $2, $3)", records)
            ratios.append((time.perf_counter() - copied) / (copied - began))
        return sorted(ratios)[1]
    finally:
        await connection.close()

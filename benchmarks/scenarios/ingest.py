"""Ingests squad from text to table, compares the write step with COPY, and ingests one large document."""

from __future__ import annotations

import time

import anyio
import asyncpg
import numpy as np
from tests.support.made import DIMENSION, sentences
from tests.support.squad import TENANT, Squad, ingested, read_lines

from ragcore import EmbeddedDocument, PgVectorStore, embedding
from ragcore.ingest import Ingestor
from ragcore.ingest.chunking import cut
from ragcore.loadtest.figures import Figures, Table, say
from ragcore.store import migrate
from ragcore.store.postgres.extension import encode_vector, find_extension
from ragcore.types import Chunk, Document

ROWS = 2_000
# The batch size of the ingestor.
BATCH = 200


def run(*, quick: bool) -> Figures:
    """Ingest all passages. With --quick: the first 600."""
    return anyio.run(_run, 600 if quick else None, quick)


async def _run(passages: int | None, quick: bool) -> Figures:
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
        say("a second run over the same documents …")
        documents = [Document(str(number), f"text {number}") for number in range(200)]
        ingestor = Ingestor(embedder=squad.embedder, store=squad.store)
        await ingestor.add(documents, tenant=TENANT)
        again = await ingestor.add(documents, tenant=TENANT)
        figures.values["unchanged_embedded"] = again.embedding_tokens or 0
        figures.expect(again.embedding_tokens is None, "a second run embeds nothing")
        say("compared with COPY …")
        dsn = squad.store._address.dsn.reveal()
        figures.values["copy_ratio"] = ratio = await _written_beside_copy(
            dsn, squad.owner_dsn, rows=500 if quick else ROWS
        )
        figures.expect(ratio >= 0.8, "copy_ratio >= 0.8")
        say("a large document …")
        wanted = 2 if quick else 12
        figures.values["largest_document_mb"] = largest = await _largest(dsn, squad.owner_dsn, megabytes=wanted)
        figures.expect(largest >= min(wanted, 10), "largest_document_mb >= 10")
    return figures


def _chunking(squad: Squad, passages: int | None) -> float:
    """Return the seconds that cutting every document takes, without any other work."""
    embedder = squad.embedder
    documents = [Document(row["id"], row["text"]) for row in read_lines("corpus.jsonl.gz")[:passages]]
    began = time.perf_counter()
    for document in documents:
        cut(document, count_tokens=embedder.count_tokens, chunk_tokens=embedder.max_tokens, overlap_tokens=0)
    return time.perf_counter() - began


async def _written_beside_copy(dsn: str, owner_dsn: str, *, rows: int) -> float:
    """Return the store's rate of chunks a second, divided by the rate of plain binary COPY into copies of the tables with the same indexes.

    The copies have neither policies nor triggers, and their rows already contain the postings of the words.
    """
    draw = np.random.default_rng(0)
    ratios = []
    for number in range(3):
        schema, beside = f"written_{number}", f"copied_{number}"
        await migrate(owner_dsn, model="made", dimension=DIMENSION, role="ragcore", schema=schema)
        vectors = draw.normal(size=(rows, DIMENSION)).astype(np.float32)
        documents = [
            EmbeddedDocument(
                document=Document(f"d{n}", text),
                content_hash="h",
                model="made",
                chunks=(Chunk(id=f"d{n}#0", text=text, start=0, end=len(text)),),
                vectors=vectors[n : n + 1],
            )
            for n, text in enumerate(sentences(number, rows))
        ]
        async with PgVectorStore(dsn, schema=schema) as store:
            await store.hashes(None, tenant="a")
            began = time.perf_counter()
            for start in range(0, rows, BATCH):
                await store.upsert(documents[start : start + BATCH], tenant="a")
            written = time.perf_counter() - began
        ratios.append(await _copied(owner_dsn, schema, beside) / written)
        say(f"ratio of the store's rate to COPY's: {ratios[-1]:.2f}")
    return sorted(ratios)[1]


async def _copied(owner_dsn: str, schema: str, beside: str) -> float:
    """Return the seconds that COPY takes for the same rows, in batches of the same size."""
    owner = await asyncpg.connect(owner_dsn)
    try:
        extension = await find_extension(owner)
        await owner.set_type_codec(
            "vector", schema=extension.schema, encoder=encode_vector, decoder=bytes, format="binary"
        )
        await owner.execute(f"create schema {beside}")
        tables: dict[str, list[asyncpg.Record]] = {}
        columns: dict[str, list[str]] = {}
        for table in ("document", "chunk", "posting"):
            await owner.execute(f"create table {beside}.{table} (like {schema}.{table} including all)")
            names = "select attname from pg_attribute where attrelid = $1::regclass and attnum > 0 and attgenerated = '' order by attnum"
            columns[table] = [row[0] for row in await owner.fetch(names, f"{beside}.{table}")]
            tables[table] = await owner.fetch(f"select {', '.join(columns[table])} from {schema}.{table}")
        began = time.perf_counter()
        for table in ("document", "chunk", "posting"):
            rows = tables[table]
            size = BATCH * max(1, len(rows) // len(tables["chunk"]))
            for start in range(0, len(rows), size):
                records = [tuple(row) for row in rows[start : start + size]]
                await owner.copy_records_to_table(table, schema_name=beside, columns=columns[table], records=records)
        return time.perf_counter() - began
    finally:
        await owner.close()


async def _largest(dsn: str, owner_dsn: str, *, megabytes: int) -> float:
    """Ingest a document of `megabytes` MB with prepared vectors. Returns the MB that were stored."""
    await migrate(owner_dsn, model="made", dimension=DIMENSION, role="ragcore", schema="largest")
    draw = np.random.default_rng(0)
    embedder = embedding.from_sync(
        lambda texts: draw.normal(size=(len(texts), DIMENSION)).astype(np.float32),
        model="made",
        dimension=DIMENSION,
        max_tokens=500,
    )
    parts, size = [], 0
    for sentence in sentences(1, 300_000, words=12):
        parts.append(sentence.capitalize() + ". ")
        size += len(parts[-1])
        if size > megabytes * 1e6:
            break
    text = "".join(parts)
    async with PgVectorStore(dsn, schema="largest") as store, embedder:  # type: ignore[attr-defined]
        report = await Ingestor(embedder=embedder, store=store).add([Document("large", text)], tenant="a")
        return len(text) / 1e6 if report.added == 1 and not report.failed else 0.0

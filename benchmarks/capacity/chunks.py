"""Made chunks: vectors around random centres, short texts of made words, and their way into a collection by COPY."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg
import numpy as np
from numpy.typing import NDArray
from tests.support.made import zipf_words

from ragcore.protocols import EmbeddedDocument
from ragcore.store.postgres.extension import encode_vector
from ragcore.types import Chunk, Document

__all__ = ["MODEL", "Chunks", "Vectors", "copy_in"]

Vectors = NDArray[np.float32]
MODEL = "made"
CHUNKS_OF_A_DOCUMENT = 50
# Number of rows of one COPY. The trigger that writes the postings runs once for each.
BATCH = 10_000
DOCUMENT_COLUMNS = ("tenant", "id", "content_hash", "model")
CHUNK_COLUMNS = ("tenant", "id", "document_id", "position", "text", "start_char", "end_char", "metadata", "embedding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """A generator of chunks. The same settings make the same chunks.

    Attributes:
        dimension: dimension of the vectors.
        clusters: number of random centres.
        spread: length of the random part of a vector, as a multiple of the length of its centre. With 1.0, two vectors of a cluster have a cosine of 0.5.
        words: number of words of a text.
        seed: seed of centres, vectors and texts.
    """

    dimension: int
    clusters: int = 200
    spread: float = 1.0
    words: int = 8
    seed: int = 23

    def __str__(self) -> str:
        return f"{self.dimension} dimensions, {self.clusters} clusters, spread {self.spread}, {self.words} words, seed {self.seed}"

    def vectors(self, name: str, count: int) -> Vectors:
        """Return unit vectors of shape (count, dimension). Another name gives other vectors around the same centres."""
        centres = _unit(np.random.default_rng(self.seed).normal(size=(self.clusters, self.dimension)))
        draw = self._draw(name)
        away = _unit(draw.standard_normal(size=(count, self.dimension), dtype=np.float32))
        return _unit(centres[draw.integers(self.clusters, size=count)] + self.spread * away)

    def texts(self, name: str, count: int) -> list[str]:
        """Return texts of made words, with the frequencies of natural text."""
        words, weights = zipf_words()
        shares = np.cumsum(weights) / np.sum(weights)
        picked = np.searchsorted(shares, self._draw(f"{name} words").random(size=(count, self.words)))
        return [" ".join(words[number] for number in row) for row in picked]

    def documents(self, name: str, count: int) -> Iterator[EmbeddedDocument]:
        """Yield documents with `count` chunks in all."""
        vectors, texts = self.vectors(name, count), self.texts(name, count)
        for number, start in enumerate(range(0, count, CHUNKS_OF_A_DOCUMENT)):
            parts = texts[start : start + CHUNKS_OF_A_DOCUMENT]
            text = "\n".join(parts)
            chunks, place = [], 0
            for position, part in enumerate(parts):
                chunks.append(Chunk(id=f"{name}-{number}#{position}", text=part, start=place, end=place + len(part)))
                place += len(part) + 1
            yield EmbeddedDocument(
                document=Document(f"{name}-{number}", text),
                content_hash=hashlib.sha256(text.encode()).hexdigest(),
                model=MODEL,
                chunks=tuple(chunks),
                vectors=vectors[start : start + len(parts)],
            )

    def _draw(self, name: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8]))


async def copy_in(
    owner: asyncpg.Connection[asyncpg.Record],
    schema: str,
    tenant: str,
    documents: Iterator[EmbeddedDocument],
) -> None:
    """Write documents as the store does, but by COPY. The tables' triggers and generated columns add the words and the postings.

    Args:
        owner: a connection of a superuser, to which row-level security does not apply, with a codec for pgvector's binary format.
        schema: the collection.
        tenant: the documents' tenant.
        documents: new documents.
    """
    heads: list[tuple[object, ...]] = []
    rows: list[tuple[object, ...]] = []

    async def write() -> None:
        for table, columns, records in (("document", DOCUMENT_COLUMNS, heads), ("chunk", CHUNK_COLUMNS, rows)):
            await owner.copy_records_to_table(table, schema_name=schema, columns=columns, records=records)
            records.clear()

    for embedded in documents:
        name = embedded.document.id
        heads.append((tenant, name, embedded.content_hash, embedded.model))
        for position, (chunk, vector) in enumerate(zip(embedded.chunks, embedded.vectors, strict=True)):
            place = (chunk.start, chunk.end)
            rows.append((tenant, chunk.id, name, position, chunk.text, *place, "{}", encode_vector(vector)))
        if len(rows) >= BATCH:
            await write()
    if heads:
        await write()


def _unit(vectors: NDArray[np.floating]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)

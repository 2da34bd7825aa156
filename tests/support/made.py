"""Makes collections of chunks with random vectors and words. COPY writes them, so that a tenant of 200,000 chunks takes only minutes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import numpy as np
from numpy.typing import NDArray

from ragcore.store import migrate
from ragcore.store.postgres.extension import encode_vector, find_extension

__all__ = ["DIMENSION", "Vectors", "clustered", "collection", "copy_chunks", "near", "sentences", "zipf_words"]

DIMENSION = 384
Vectors = NDArray[np.float32]
COLUMNS = ["tenant", "id", "document_id", "position", "text", "metadata", "embedding"]
# One of this many chunks of a tenant has "rare" set, so that a filter keeps 1 %.
RARE_EVERY = 100
WORDS = 30_000
WORDS_OF_A_CHUNK = 150


def near(draw: np.random.Generator, question: Vectors, count: int, cosine: float) -> Vectors:
    """Return unit vectors with about this cosine to a question."""
    away = draw.normal(size=(count, len(question))).astype(np.float32)
    away -= np.outer(away @ question, question)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    at = np.clip(cosine + 0.02 * draw.normal(size=(count, 1)), -1, 1).astype(np.float32)
    return np.asarray(at * question + np.sqrt(1 - at * at) * away, dtype=np.float32)


def zipf_words() -> tuple[list[str], list[float]]:
    """Return generated words and the frequency of each, proportional to 1 / rank as in natural text."""
    draw = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < WORDS:
        words["".join(draw.choices(syllables, k=draw.choice([2, 3, 4])))] = None
    return list(words), [1 / (rank + 2.7) for rank in range(WORDS)]


def sentences(seed: int, count: int, words: int = WORDS_OF_A_CHUNK) -> Iterator[str]:
    """Yield texts of generated words."""
    vocabulary, weights = zipf_words()
    cumulated = list(np.cumsum(weights))
    draw = random.Random(seed)
    for _ in range(count):
        yield " ".join(draw.choices(vocabulary, cum_weights=cumulated, k=words))


@asynccontextmanager
async def collection(owner_dsn: str, schema: str, *, indexed: bool = True) -> Any:
    """Create a collection and yield its owner's connection. The index is created at the end of the block."""
    await migrate(owner_dsn, model="made", dimension=DIMENSION, role="ragcore", schema=schema)
    owner = await asyncpg.connect(owner_dsn)
    try:
        extension = await find_extension(owner)
        await owner.set_type_codec(
            "vector", schema=extension.schema, encoder=encode_vector, decoder=bytes, format="binary"
        )
        await owner.execute(f"drop index {schema}.chunk_embedding")
        yield owner
        await owner.execute("set maintenance_work_mem = '1GB'; set max_parallel_maintenance_workers = 1")
        if indexed:
            await owner.execute(
                f"create index chunk_embedding on {schema}.chunk using hnsw (embedding {extension.schema}.vector_cosine_ops)"
            )
        await owner.execute(f"vacuum analyze {schema}.chunk")
        await owner.execute(f"vacuum analyze {schema}.posting")
    finally:
        await owner.close()


async def copy_chunks(
    owner: asyncpg.Connection[asyncpg.Record],
    schema: str,
    tenant: str,
    texts: Sequence[str] | Iterator[str],
    vectors: Vectors | None,
) -> None:
    """Write the chunks of one document."""
    await owner.execute(f"insert into {schema}.document values ($1, 'd', 'h', 'made')", tenant)
    batch: list[tuple[Any, ...]] = []
    for number, text in enumerate(texts):
        metadata = '{"rare": true}' if number % RARE_EVERY == 0 else "{}"
        vector = None if vectors is None else encode_vector(vectors[number])
        batch.append((tenant, f"{tenant}-{number}", "d", number, text, metadata, vector))
        if len(batch) == 2_000:
            await owner.copy_records_to_table("chunk", schema_name=schema, columns=COLUMNS, records=batch)
            batch = []
    if batch:
        await owner.copy_records_to_table("chunk", schema_name=schema, columns=COLUMNS, records=batch)


def clustered(seed: int, count: int, *, dimension: int, clusters: int, spread: float) -> Vectors:
    """Return unit vectors around random centres, in random order.

    Args:
        seed: seed of the generator.
        count: number of vectors.
        dimension: their dimension.
        clusters: number of centres.
        spread: length of the random part of a vector, as a multiple of the length of its centre. With 1.0, two vectors of a cluster have a cosine of 0.5.
    """
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(clusters, dimension)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    away = draw.normal(size=(count, dimension)).astype(np.float32)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    vectors = centres[draw.integers(clusters, size=count)] + spread * away
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)

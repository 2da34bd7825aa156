"""Squad in an embedded PostgreSQL: passages embedded by the local embedder, and questions with their labels."""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ragcore import Document, Embedder, LocalEmbedder, PgVectorStore, Vector, estimate_tokens
from ragcore.ingest import Ingestor
from ragcore.loadtest.figures import say
from ragcore.protocols import EmbeddedDocument, Store
from ragcore.store import embedded, migrate
from ragcore.types import IngestReport, Kind

SQUAD = Path(__file__).parents[3] / "shared" / "data" / "squad"
TENANT = "squad"
# This step is coprime to 100. So the values of the metadata field "share" are spread evenly, and "share < 10" passes a tenth of all documents.
SHARE_STEP = 37


@dataclass(frozen=True)
class Squad:
    """The running store, with its documents and questions."""

    store: PgVectorStore
    embedder: LocalEmbedder
    owner_dsn: str
    report: IngestReport
    megabytes: float
    busy: Busy
    questions: list[str]
    vectors: Vector
    relevant: list[str]


class Reference:
    """An embedder that looks up the reference vectors, for runs that should not spend time on embedding."""

    model = "all-MiniLM-L6-v2"
    dimension = 384
    max_tokens = 100_000
    count_tokens = staticmethod(estimate_tokens)

    def __init__(self) -> None:
        data = np.load(SQUAD / "embeddings.npz")
        self._vectors = {
            row["text"].strip(): vector
            for name, rows in (("queries", "queries.jsonl.gz"), ("corpus", "corpus.jsonl.gz"))
            for row, vector in zip(read_lines(rows), data[name].astype(np.float32), strict=True)
        }

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        """Return the reference vectors of passages or questions."""
        return np.stack([self._vectors[text.strip()] for text in texts])


class Widened(Reference):
    """The reference vectors, padded with zeros to a realistic length. Their similarities stay the same."""

    dimension = 3_072

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        """Return an array of shape (len(texts), 3072)."""
        return self.widen(await super().embed(texts, kind=kind))

    def widen(self, vectors: Vector) -> Vector:
        """Pad vectors from (n, 384) to (n, 3072)."""
        return np.pad(vectors, ((0, 0), (0, self.dimension - vectors.shape[1])))


class Busy:
    """Wraps an embedder and a store, and measures the seconds in which each handles at least one call."""

    def __init__(self, embedder: Embedder, store: Store) -> None:
        self._embedder = embedder
        self._store = store
        self.model, self.dimension, self.max_tokens = embedder.model, embedder.dimension, embedder.max_tokens
        self.count_tokens = embedder.count_tokens
        self.hashes, self.search, self.delete = store.hashes, store.search, store.delete
        self.count, self.scores = store.count, store.scores
        self.seconds = {"embed": 0.0, "write": 0.0}
        self._at_work = {"embed": 0, "write": 0}
        self._since = {"embed": 0.0, "write": 0.0}

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        """Call the embedder's `embed` and time it."""
        with self._timed("embed"):
            return np.asarray(await self._embedder.embed(texts, kind=kind), dtype=np.float32)

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        """Call the store's `upsert` and time it."""
        with self._timed("write"):
            await self._store.upsert(documents, tenant=tenant)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        if self._at_work[stage] == 0:
            self._since[stage] = time.perf_counter()
        self._at_work[stage] += 1
        try:
            yield
        finally:
            self._at_work[stage] -= 1
            if self._at_work[stage] == 0:
                self.seconds[stage] += time.perf_counter() - self._since[stage]


@asynccontextmanager
async def ingested(*, passages: int | None = None, reference: bool = False) -> AsyncIterator[Squad]:
    """Ingest squad, whole or in part, with ragcore's ingestor. The questions have reference vectors.

    With `reference`, the vectors of the passages are also looked up and not computed.
    """
    documents = read_documents(passages)
    with tempfile.TemporaryDirectory() as folder:
        async with embedded.server(folder) as server, LocalEmbedder() as embedder:
            await migrate(server.owner_dsn, model=embedder.model, dimension=embedder.dimension, role="ragcore")
            async with PgVectorStore(server.dsn) as store:
                say(f"{'storing' if reference else 'embedding'} {len(documents)} passages …")
                maker: Embedder = Reference() if reference else embedder
                busy = Busy(maker, store)
                ingestor = Ingestor(embedder=busy, store=busy, chunk_tokens=maker.max_tokens, embed_text="text")
                report = await ingestor.add(documents, tenant=TENANT)
                megabytes = sum(len(document.text.encode()) for document in documents) / 1e6
                yield Squad(store, embedder, server.owner_dsn.reveal(), report, megabytes, busy, *_questions())


def read_documents(most: int | None = None) -> list[Document]:
    """Return all passages, or only the first `most`."""
    return [
        Document(row["id"], row["text"], title=row["title"], metadata={"share": number * SHARE_STEP % 100})
        for number, row in enumerate(read_lines("corpus.jsonl.gz")[:most])
    ]


def _questions() -> tuple[list[str], Vector, list[str]]:
    rows = read_lines("queries.jsonl.gz")
    labels = dict(line.split("\t")[:2] for line in (SQUAD / "qrels.tsv").read_text().splitlines())
    vectors = np.load(SQUAD / "embeddings.npz")["queries"].astype(np.float32)
    return [row["text"] for row in rows], vectors, [labels[row["id"]] for row in rows]


def read_lines(name: str) -> list[dict[str, Any]]:
    """Return the rows of a .jsonl.gz file of squad. If it does not exist, end the run with a message."""
    if not SQUAD.is_dir():
        sys.exit(f"this scenario needs the folder {SQUAD}, which does not exist on this machine")
    with gzip.open(SQUAD / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]

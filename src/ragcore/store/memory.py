"""A store in memory, with exact search: for tests and notebooks, and the reference for the results of other stores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import anyio.lowlevel
import numpy as np
from numpy.typing import NDArray

from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.filters import Filter
from ragcore.lifecycle.part import Part
from ragcore.protocols import Diagnosis, EmbeddedDocument, Found, Query, Scores, Vector
from ragcore.store.fusion import fuse
from ragcore.text.words import content_words
from ragcore.types import Counts, EmbedText, Passage
from ragcore.types.validation import check_tenant

__all__ = ["MemoryStore"]


class MemoryStore(Part):
    """Keeps all documents in this process, without a limit. Search is exact: a matrix product over the tenant's chunks.

    Full-text search joins the question's words by OR. It ranks by their frequency, divided by 1 + log(length). It normalises words in a simpler way
    than PostgreSQL.
    """

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant] = {}
        self._embed_text: EmbedText | None = None

    async def search(self, query: Query, /) -> Sequence[Passage]:
        """Return the tenant's passages, best first. See `Searcher.search`."""
        await self._enter(query.tenant)
        tenant = self._tenants.get(query.tenant)
        if query.filter is not None and not isinstance(query.filter, Filter):
            raise InvalidInput(
                f"filter must be a ragcore.Filter, not {type(query.filter).__name__}: build it with ragcore.meta(…)"
            )
        if query.mode != "text" and query.vector is None:
            raise InvalidInput(f"mode {query.mode!r} needs a vector")
        if tenant is None:
            return Found()
        allowed = tenant.allowed(query)
        if query.vector is None or query.mode == "text":
            return Found(tenant.by_text(query.question, allowed)[: query.top_k])
        ranked = tenant.by_vector(query.vector, allowed)
        threshold = -1.0 if query.score_threshold is None else query.score_threshold
        passing = [passage for passage in ranked if (passage.score or 0.0) >= threshold]
        if query.mode == "hybrid":
            depth = max(4 * query.top_k, 40)
            passing = fuse(passing[:depth], tenant.by_text(query.question, allowed)[:depth])
        best = ranked[0].score if ranked else None
        return Found(passing[: query.top_k], best_score=best, scan="exact")

    async def diagnose(self, query: Query, /) -> Diagnosis:
        """Return the number of the tenant's chunks and the models of their vectors."""
        counts = await self.count(tenant=query.tenant)
        models = {document.model for document in self._documents(query.tenant).values()}
        everywhere = None if counts.chunks else (await self.count(tenant=None)).chunks
        return Diagnosis(chunks=counts.chunks, models=sorted(models), store_chunks=everywhere)

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        """Add documents, or replace those with the same ids."""
        await self._enter(tenant)
        for document in documents:
            self._check_dimension(document)
        home = self._tenants.setdefault(tenant, _Tenant())
        for document in documents:
            home.put(document)

    async def hashes(self, document_ids: Sequence[str] | None, /, *, tenant: str) -> Mapping[str, str]:
        """Return content hashes by document id; None asks for all documents."""
        await self._enter(tenant)
        documents = self._documents(tenant)
        ids = documents if document_ids is None else document_ids
        return {document_id: documents[document_id].content_hash for document_id in ids if document_id in documents}

    async def delete(self, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """Remove documents; return how many were removed."""
        await self._enter(tenant)
        home = self._tenants.get(tenant)
        return 0 if home is None else sum(home.drop(document_id) for document_id in set(document_ids))

    async def expire(self, *, limit: int = 1_000) -> Mapping[str, int]:
        """Remove expired documents, at most `limit`; return how many were removed, by tenant."""
        await self._enter(None)
        now, removed = datetime.now(UTC), Counter[str]()
        for tenant, home in self._tenants.items():
            for document in [embedded.document for embedded in home.documents.values()]:
                if document.expires_at is not None and document.expires_at <= now and removed.total() < limit:
                    removed[tenant] += home.drop(document.id)
        return dict(removed)

    async def recorded_embed_text(self) -> EmbedText | None:
        """Return the recorded choice of the text to embed for a chunk; None if nothing is recorded yet."""
        return self._embed_text

    async def record_embed_text(self, embed_text: EmbedText, /) -> EmbedText | None:
        """Record the choice of the text to embed for a chunk from now on; return the former one."""
        before, self._embed_text = self._embed_text, embed_text
        return before

    async def count(self, *, tenant: str | None) -> Counts:
        """Return the numbers of documents and chunks of a tenant; None: of all tenants."""
        await self._enter(tenant)
        homes = list(self._tenants.values()) if tenant is None else [self._tenants.get(tenant, _Tenant())]
        return Counts(
            documents=sum(len(home.documents) for home in homes),
            chunks=sum(len(document.chunks) for home in homes for document in home.documents.values()),
        )

    async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
        """Return the similarity of the tenant's chunks to `vector`, best first."""
        await self._enter(tenant)
        home = self._tenants.get(tenant, _Tenant())
        found = home.by_vector(vector, home.current())[:limit]
        return Scores(
            document_ids=[passage.document_id for passage in found],
            chunk_ids=[passage.chunk_id for passage in found],
            scores=np.array([passage.score for passage in found], dtype=np.float32),
        )

    async def _enter(self, tenant: str | None) -> None:
        self._check_open()
        if tenant is not None:
            check_tenant(tenant)
        await anyio.lowlevel.checkpoint()

    def _documents(self, tenant: str) -> Mapping[str, EmbeddedDocument]:
        home = self._tenants.get(tenant)
        return {} if home is None else home.documents

    def _check_dimension(self, document: EmbeddedDocument) -> None:
        for home in self._tenants.values():
            for other in home.documents.values():
                if other.vectors.shape[1:] != document.vectors.shape[1:] and len(other.chunks) and len(document.chunks):
                    raise ConfigurationError(
                        f"the store holds vectors of {other.vectors.shape[1]} dimensions ({other.model}), and document "
                        f"{document.document.id!r} has {document.vectors.shape[1]} ({document.model}): use one model for each store"
                    )
                return


@dataclass(slots=True)
class _Index:
    passages: list[Passage]
    matrix: NDArray[np.float32]
    words: list[Counter[str]]
    # Time at which each passage expires; [] if none does.
    expiries: list[datetime | None]


class _Tenant:
    def __init__(self) -> None:
        self.documents: dict[str, EmbeddedDocument] = {}
        self._index: _Index | None = None

    def put(self, document: EmbeddedDocument) -> None:
        self.documents[document.document.id] = document
        self._index = None

    def drop(self, document_id: str) -> bool:
        self._index = None
        return self.documents.pop(document_id, None) is not None

    def passages(self) -> list[Passage]:
        return self._indexed().passages

    def current(self) -> Sequence[int]:
        """Return the indexes of the passages that have not expired."""
        index, now = self._indexed(), datetime.now(UTC)
        if not index.expiries:
            return range(len(index.passages))
        return [number for number, expires_at in enumerate(index.expiries) if expires_at is None or expires_at > now]

    def allowed(self, query: Query) -> Sequence[int]:
        current = self.current()
        if query.filter is None:
            return current
        passages = self.passages()
        return [number for number in current if query.filter.matches(passages[number])]

    def by_vector(self, vector: Vector, allowed: Sequence[int]) -> list[Passage]:
        index = self._indexed()
        if not allowed:
            return []
        if index.matrix.shape[1] != len(vector):
            raise ConfigurationError(
                f"the store holds vectors of {index.matrix.shape[1]} dimensions, and the question's vector has {len(vector)}: "
                "use the embedder that the documents were embedded with"
            )
        with np.errstate(invalid="ignore", divide="ignore"):
            unit = vector / np.linalg.norm(vector)
            scores = np.clip(index.matrix[list(allowed)] @ unit, -1.0, 1.0)
        found = [
            replace(index.passages[number], score=float(score))
            for number, score in zip(allowed, scores, strict=True)
            if math.isfinite(score)
        ]
        return sorted(found, key=lambda passage: (-(passage.score or 0.0), passage.chunk_id))

    def by_text(self, question: str, allowed: Sequence[int]) -> list[Passage]:
        index = self._indexed()
        wanted = set(content_words(question))
        found = []
        for number in allowed:
            words = index.words[number]
            hits = sum(words[word] for word in wanted)
            if hits:
                found.append(replace(index.passages[number], text_score=hits / (1 + math.log(1 + words.total()))))
        return sorted(found, key=lambda passage: (-(passage.text_score or 0.0), passage.chunk_id))

    def _indexed(self) -> _Index:
        if self._index is None:
            passages, vectors = [], []
            expiries: list[datetime | None] = []
            for embedded in self.documents.values():
                document = embedded.document
                vectors.append(embedded.vectors)
                expiries += [document.expires_at] * len(embedded.chunks)
                for chunk in embedded.chunks:
                    passages.append(  # noqa: PERF401  # a comprehension would hide the shape
                        Passage(
                            chunk.id,
                            document.id,
                            chunk.text,
                            title=document.title,
                            source=document.source,
                            start=chunk.start,
                            end=chunk.end,
                            metadata={**document.metadata, **chunk.metadata},
                        )
                    )
            filled = [v for v in vectors if len(v)]
            matrix = np.concatenate(filled) if filled else np.zeros((0, 0), np.float32)
            with np.errstate(invalid="ignore", divide="ignore"):
                matrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
            words = [Counter(content_words(f"{passage.title} {passage.text}")) for passage in passages]
            self._index = _Index(passages, matrix, words, expiries if any(expiries) else [])
        return self._index

"""A store in memory, with exact search, for tests and notebooks. Other stores are tested against its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import anyio.lowlevel
import numpy as np

from ragcore.errors import ConfigurationError, InvalidInput, Overloaded
from ragcore.filters import Filter
from ragcore.lifecycle.part import Part
from ragcore.protocols import Diagnosis, EmbeddedDocument, Found, Query, Scores, Vector
from ragcore.store.memory_search import by_score, search_tenants
from ragcore.store.memory_tenant import Hit, MemoryTenant
from ragcore.store.origins import foreign
from ragcore.text.lexemes import Language
from ragcore.types import Counts, EmbedText, Origin, Passage
from ragcore.types.validation import check_tenant

__all__ = ["MemoryStore"]


class MemoryStore(Part):
    """Keeps all documents in this process, without a limit. Search is exact: a matrix product over the tenant's chunks.

    Full-text search joins the question's words by OR and ranks by BM25, with the formula of `PgVectorStore`.

    Args:
        language: "english" or "simple", with the meaning of `store.migrate`.

    Examples:
        ```python
        async with ragcore.MemoryStore() as store:
            retriever = ragcore.Retriever(store=store, embedder=embedder)
        ```
    """

    def __init__(self, *, language: Language = "english") -> None:
        if language not in get_args(Language):
            raise ConfigurationError(f"language is {language!r}: MemoryStore knows {', '.join(get_args(Language))}")
        self.language: Language = language
        self._shared: set[str] = set()
        self._tenants: dict[str, MemoryTenant] = {}
        self._embed_text: EmbedText | None = None
        self._locked: set[tuple[str, str]] = set()

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
        homes: list[tuple[str | None, MemoryTenant]] = [] if tenant is None else [(None, tenant)]
        homes += [(name, self._tenants[name]) for name in self._shared_of(query) if name in self._tenants]
        return search_tenants(homes, query, language=self.language)

    def share(self, tenant: str, /) -> None:
        """Let all tenants search this tenant's documents, if a call names it in `shared`."""
        self._shared.add(check_tenant(tenant))

    def unshare(self, tenant: str, /) -> None:
        """End `share`."""
        self._shared.discard(tenant)

    async def shared_tenants(self) -> Sequence[str]:
        """Return the tenants that are marked as shared."""
        await self._enter(None)
        return sorted(self._shared)

    async def adjacent(
        self, passages: Sequence[Passage], /, *, tenant: str, distance: int
    ) -> Sequence[Sequence[Passage]]:
        """Return the chunks around each passage. See `AdjacentChunks`."""
        await self._enter(tenant)
        found: list[Sequence[Passage]] = []
        for passage in passages:
            home = self._tenants.get(passage.shared or tenant)
            readable = home is not None and passage.shared in (None, *self._shared)
            found.append(home.around(passage, distance) if home is not None and readable else ())
        return found

    async def document_chunks(self, document_id: str, /, *, tenant: str, with_vectors: bool = False) -> Found:
        """Return all chunks of a document in the order of its text. See `ChunkReader`."""
        await self._enter(tenant)
        home = self._tenants.get(tenant, MemoryTenant())
        return _found(home.chunks(document_id), with_vectors=with_vectors)

    async def chunks_by_id(self, chunk_ids: Sequence[str], /, *, tenant: str, with_vectors: bool = False) -> Found:
        """Return the chunks with these ids. See `ChunkReader`."""
        await self._enter(tenant)
        home = self._tenants.get(tenant, MemoryTenant())
        return _found(home.with_ids(chunk_ids), with_vectors=with_vectors)

    def _shared_of(self, query: Query) -> list[str]:
        missing = sorted(repr(name) for name in query.shared if name not in self._shared)
        if missing:
            raise InvalidInput(f"not shared: {', '.join(missing)}. Mark a tenant with MemoryStore.share first")
        return [name for name in dict.fromkeys(query.shared) if name != query.tenant]

    async def diagnose(self, query: Query, /) -> Diagnosis:
        """Return the number of the tenant's chunks and the models of their vectors."""
        counts = await self.count(tenant=query.tenant)
        models = {document.model for document in self._documents(query.tenant).values()}
        everywhere = None if counts.chunks else (await self.count(tenant=None)).chunks
        return Diagnosis(chunks=counts.chunks, models=sorted(models), store_chunks=everywhere)

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        """Add documents, or replace those with the same ids. Of several documents with the same id, the last one is stored."""
        await self._enter(tenant)
        for document in documents:
            self._check_dimension(document)
        home = self._tenants.setdefault(tenant, MemoryTenant())
        _check_origins(home, {one.document.id: one.document.origin for one in documents})
        for document in documents:
            home.put(document)
            if document.document.origin is not None:
                home.origins[document.document.id] = replace(document.document.origin, takes_over=False)

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

    async def origins(self, document_ids: Sequence[str], /, *, tenant: str) -> Mapping[str, Origin]:
        """Return the recorded origin of each of these documents that has one. See `OriginStore`."""
        await self._enter(tenant)
        known = self._tenants.get(tenant, MemoryTenant()).origins
        return {document_id: known[document_id] for document_id in document_ids if document_id in known}

    async def record_origins(self, origins: Mapping[str, Origin], /, *, tenant: str) -> None:
        """Record the origins of stored documents. See `OriginStore`."""
        await self._enter(tenant)
        home = self._tenants.get(tenant, MemoryTenant())
        _check_origins(home, origins)
        home.origins.update(
            {one: replace(origin, takes_over=False) for one, origin in origins.items() if one in home.documents}
        )

    async def documents_of(
        self, source: str, /, *, tenant: str, after: str = "", limit: int = 1_000
    ) -> Mapping[str, Origin]:
        """Return the next documents that are recorded for a source, sorted by id. See `OriginStore`."""
        known = await self._of(source, tenant)
        return {one: known[one] for one in sorted(one for one in known if one > after)[:limit]}

    async def documents_of_entries(
        self, source: str, entries: Sequence[str], /, *, tenant: str
    ) -> Mapping[str, Origin]:
        """Return the documents that are recorded for these entries of a source. See `OriginStore`."""
        known = await self._of(source, tenant)
        return {one: origin for one, origin in known.items() if origin.entry in set(entries)}

    async def count_of(self, source: str, /, *, tenant: str) -> int:
        """Return the number of documents that are recorded for a source."""
        return len(await self._of(source, tenant))

    async def delete_of(self, source: str, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """Delete those of the documents that are still recorded for the source; return their number."""
        known = await self._of(source, tenant)
        return await self.delete([one for one in document_ids if one in known], tenant=tenant)

    @asynccontextmanager
    async def lock_sources(
        self, sources: Sequence[str], /, *, tenant: str
    ) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Hold a lock for each source during a block. See `OriginStore`."""
        wanted = {(tenant, source) for source in sources}
        busy = wanted & self._locked
        if busy:
            raise Overloaded(
                f"another task is synchronising {min(busy)[1]} for the tenant {tenant}: wait until it has ended, or stop it",
                dependency="source",
                stage="write",
            )
        self._locked |= wanted

        async def check() -> None:
            await self._enter(tenant)

        try:
            yield check
        finally:
            self._locked -= wanted

    async def _of(self, source: str, tenant: str) -> dict[str, Origin]:
        await self._enter(tenant)
        known = self._tenants.get(tenant, MemoryTenant()).origins
        return {one: origin for one, origin in known.items() if origin.source == source}

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
        homes = list(self._tenants.values()) if tenant is None else [self._tenants.get(tenant, MemoryTenant())]
        return Counts(
            documents=sum(len(home.documents) for home in homes),
            chunks=sum(len(document.chunks) for home in homes for document in home.documents.values()),
        )

    async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
        """Return the similarity of the tenant's chunks to `vector`, best first."""
        await self._enter(tenant)
        home = self._tenants.get(tenant, MemoryTenant())
        hits = home.by_vector(vector, home.current())
        found = [hit.passage for hit in sorted(hits, key=by_score)[:limit]]
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


def _check_origins(home: MemoryTenant, origins: Mapping[str, Origin | None]) -> None:
    for document_id, origin in origins.items():
        known = home.origins.get(document_id)
        if known is not None and origin is not None and known.source != origin.source and not origin.takes_over:
            raise InvalidInput(foreign(document_id, known.source), stage="write")


def _found(hits: Sequence[Hit], *, with_vectors: bool) -> Found:
    return Found([hit.passage for hit in hits], vectors=[hit.vector for hit in hits] if with_vectors else None)

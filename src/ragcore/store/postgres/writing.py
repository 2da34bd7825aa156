"""Writing to a collection: documents whole or not at all, in slices that bound a statement's size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ragcore.protocols import EmbeddedDocument
from ragcore.store.postgres.collection import Collection, StoreSettings
from ragcore.store.postgres.connection import PooledConnection, transaction
from ragcore.store.postgres.extension import encode_vector
from ragcore.store.postgres.statements import SQL
from ragcore.store.postgres.tenants import Tenants
from ragcore.types.validation import check_tenant

__all__ = ["Writing"]

# Chunks in one statement of a write: some MB, whatever the document.
SLICE = 500


class Writing:
    """What a store puts into its collection and takes out of it.

    Invariant: a document and its chunks change in one transaction, which sets the tenant first; when a write has returned, nothing is remembered of
    its tenant.

    Args:
        settings: the store's.
        collection: where to write.
        tenants: what is remembered of them, to be forgotten after a write.
    """

    def __init__(self, settings: StoreSettings, collection: Collection, tenants: Tenants) -> None:
        self._settings = settings
        self._collection = collection
        self._tenants = tenants

    async def upsert(self, documents: Sequence[EmbeddedDocument], *, tenant: str) -> None:
        """Put documents in place of those with the same ids, all of them in one transaction."""
        check_tenant(tenant)
        if documents:
            await self._collection.call(
                lambda connection: self._upsert(connection, documents, tenant),
                stage="write",
                policy=self._settings.write_policy,
            )
            self._tenants.forget(tenant)

    async def delete(self, document_ids: Sequence[str], *, tenant: str) -> int:
        """Remove documents with their chunks; how many there were."""
        check_tenant(tenant)
        # Of all attempts: where the answer to a COMMIT is lost, the next attempt finds nothing more to delete.
        deleted: set[str] = set()

        async def work(connection: PooledConnection) -> None:
            async with transaction(connection):
                await connection.execute(SQL["set_tenant"], tenant)
                statement = self._collection.statement("delete", connection)
                rows = await connection.fetch(statement, tenant, list(document_ids))
                deleted.update(row["id"] for row in rows)

        await self._collection.call(work, stage="write", policy=self._settings.write_policy)
        self._tenants.forget(tenant)
        return len(deleted)

    async def expire(self, *, limit: int) -> Mapping[str, int]:
        """Remove documents that have expired, of all tenants, at most `limit` at once; how many, by tenant."""
        policy = self._settings.write_policy
        rows = await self._collection.fetch("remove_expired", limit, stage="write", policy=policy)
        for row in rows:
            self._tenants.forget(row["tenant"])
        # Callers repeat this until nothing is removed: the last time has room for what is old besides.
        if not rows:
            removed = True
            while removed:
                old = await self._collection.fetch("remove_old_quotas", limit, stage="write", policy=policy)
                removed = bool(old[0]["removed"])
        return {row["tenant"]: row["documents"] for row in rows}

    async def _upsert(self, connection: PooledConnection, documents: Sequence[EmbeddedDocument], tenant: str) -> None:
        for embedded in documents:
            self._collection.check_model(embedded.model)
        ids = [embedded.document.id for embedded in documents]
        hashes = [embedded.content_hash for embedded in documents]
        models = [embedded.model for embedded in documents]
        expiries = [embedded.document.expires_at for embedded in documents]
        statement = self._collection.statement
        async with transaction(connection):
            await connection.execute(SQL["set_tenant"], tenant)
            # First, since it locks the documents: two writers of one document wait here, before either has touched a chunk.
            await connection.execute(statement("begin_documents", connection), tenant, ids, models, expiries)
            await connection.execute(statement("delete_chunks", connection), tenant, ids)
            for columns in _slices(documents):
                await connection.execute(statement("insert_chunks", connection), tenant, *columns)
            await connection.execute(statement("finish_documents", connection), tenant, ids, hashes)


def _slices(documents: Sequence[EmbeddedDocument]) -> Iterator[tuple[list[Any], ...]]:
    """The chunks of documents as columns, so many rows at a time."""
    rows: list[tuple[Any, ...]] = []
    for embedded in documents:
        document = embedded.document
        for position, (chunk, vector) in enumerate(zip(embedded.chunks, embedded.vectors, strict=True)):
            metadata = json.dumps({**document.metadata, **chunk.metadata}, ensure_ascii=False)
            rows.append(
                (
                    chunk.id,
                    document.id,
                    position,
                    chunk.text,
                    document.title,
                    document.source,
                    chunk.start,
                    chunk.end,
                    metadata,
                    encode_vector(vector),
                    document.expires_at,
                )
            )
            if len(rows) == SLICE:
                yield tuple(map(list, zip(*rows, strict=True)))
                rows = []
    if rows:
        yield tuple(map(list, zip(*rows, strict=True)))

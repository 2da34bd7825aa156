"""Write to a collection. Documents are written in one transaction, in slices that limit the size of a statement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from ragcore.protocols import EmbeddedDocument
from ragcore.store.postgres.collection import Collection, StoreSettings
from ragcore.store.postgres.connection import PooledConnection, transaction
from ragcore.store.postgres.extension import encode_vector
from ragcore.store.postgres.origins import record, released
from ragcore.store.postgres.statements import SQL
from ragcore.store.postgres.tenants import Tenants
from ragcore.types.validation import check_tenant

__all__ = ["Writing", "slices"]

# Number of chunks in one statement. So a statement has a few MB, however large the document is.
SLICE = 500


class Writing:
    """Adds documents to a collection and removes them.

    Invariant: a document and its chunks change in one transaction, which sets the tenant first. When a write returns, no facts about its tenant are
    remembered.

    Args:
        settings: the store's settings.
        collection: the collection to write to.
        tenants: remembered facts about tenants. A write removes those about its tenant.
    """

    def __init__(self, settings: StoreSettings, collection: Collection, tenants: Tenants) -> None:
        self._settings = settings
        self._collection = collection
        self._tenants = tenants

    async def upsert(self, documents: Sequence[EmbeddedDocument], *, tenant: str) -> None:
        """Add documents, or replace those with the same ids, in one transaction. Of several documents with the same id, the last one is stored."""
        check_tenant(tenant)
        # One statement can't change a row twice.
        documents = list({embedded.document.id: embedded for embedded in documents}.values())
        if documents:
            await self._collection.write(lambda connection: self._upsert(connection, documents, tenant), tenant=tenant)
            self._tenants.forget(tenant)

    async def delete(self, document_ids: Sequence[str], *, tenant: str) -> int:
        """Remove documents with their chunks; return how many documents were removed."""
        check_tenant(tenant)
        # The ids are collected over all attempts: if the answer to a COMMIT is lost, the next attempt finds no documents to delete.
        deleted: set[str] = set()

        async def work(connection: PooledConnection) -> None:
            async with transaction(connection):
                await connection.execute(SQL["set_tenant"], tenant)
                statement = self._collection.statement("delete", connection)
                rows = await connection.fetch(statement, tenant, list(document_ids))
                deleted.update(row["id"] for row in rows)

        await self._collection.write(work, tenant=tenant)
        self._tenants.forget(tenant)
        return len(deleted)

    async def expire(self, *, limit: int) -> Mapping[str, int]:
        """Remove expired documents of all tenants, at most `limit`; return how many were removed, by tenant."""
        policy = self._settings.write_policy
        rows = await self._collection.fetch("remove_expired", limit, stage="write", policy=policy)
        for row in rows:
            self._tenants.forget(row["tenant"])
        # Callers repeat this until nothing is removed; the last call also removes old quotas and expired vectors of questions.
        if not rows:
            for name, values in (("remove_old_quotas", (limit,)), ("trim_cached_vectors", (None, limit))):
                removed = True
                while removed:
                    old = await self._collection.fetch(name, *values, stage="write", policy=policy)
                    removed = bool(old[0]["removed"])
        return {row["tenant"]: row["documents"] for row in rows}

    async def _upsert(self, connection: PooledConnection, documents: Sequence[EmbeddedDocument], tenant: str) -> None:
        for embedded in documents:
            self._collection.check_model(embedded.model, connection)
        ids = [embedded.document.id for embedded in documents]
        origins = {one.document.id: one.document.origin for one in documents if one.document.origin is not None}
        hashes = [embedded.content_hash for embedded in documents]
        models = [embedded.model for embedded in documents]
        expiries = [embedded.document.expires_at for embedded in documents]
        statement = self._collection.statement
        async with transaction(connection):
            await connection.execute(SQL["set_tenant"], tenant)
            # This comes first, since it locks the documents: a second writer of the same document waits here, before it has changed a chunk.
            await connection.execute(
                statement("begin_documents", connection), tenant, ids, models, expiries, released(ids, origins)
            )
            if origins:
                await record(connection, self._collection, origins, tenant)
            await connection.execute(statement("delete_chunks", connection), tenant, ids)
            for columns in slices(_rows(documents)):
                await connection.execute(statement("insert_chunks", connection), tenant, *columns)
            await connection.execute(statement("finish_documents", connection), tenant, ids, hashes)


def slices(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[list[Any], ...]]:
    """Yield rows as columns, at most `SLICE` rows at a time."""
    remaining = iter(rows)
    while part := list(islice(remaining, SLICE)):
        yield tuple(map(list, zip(*part, strict=True)))


def _rows(documents: Sequence[EmbeddedDocument]) -> Iterator[tuple[Any, ...]]:
    """Yield the chunks of documents as rows."""
    for embedded in documents:
        document = embedded.document
        for position, (chunk, vector) in enumerate(zip(embedded.chunks, embedded.vectors, strict=True)):
            yield (
                chunk.id,
                document.id,
                position,
                chunk.text,
                document.title,
                document.source,
                chunk.start,
                chunk.end,
                json.dumps({**document.metadata, **chunk.metadata}, ensure_ascii=False),
                encode_vector(vector),
                document.expires_at,
            )

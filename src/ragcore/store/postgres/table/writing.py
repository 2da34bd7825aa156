"""Write to an existing table. Documents are written in one transaction, which changes only rows of one tenant."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ragcore.errors import ConfigurationError, InvalidInput, Unsupported
from ragcore.protocols import EmbeddedDocument
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.extension import encode_vector
from ragcore.store.postgres.table.access import TableAccess
from ragcore.store.postgres.table.statements import Shape, writing_statement
from ragcore.store.postgres.table.values import id_of, new_id_of, tenant_of
from ragcore.store.postgres.tenants import Tenants
from ragcore.store.postgres.writing import slices

__all__ = ["TableWriting"]


class TableWriting:
    """Adds documents to an existing table and removes them.

    Invariant: each statement that changes rows has the condition on the tenant, or inserts rows of the tenant. Before the transaction ends, the tenant must
    see the rows that were inserted.

    Args:
        access: the access to the table.
        tenants: remembered facts about tenants. A write removes those about its tenant.
    """

    def __init__(self, access: TableAccess, tenants: Tenants) -> None:
        self._access = access
        self._tenants = tenants

    async def upsert(self, documents: Sequence[EmbeddedDocument], *, tenant: str) -> None:
        """Add documents, or replace those with the same ids, in one transaction. Of several documents with the same id, the last one is stored."""
        documents = list({embedded.document.id: embedded for embedded in documents}.values())
        for embedded in documents:
            if embedded.document.expires_at is not None:
                raise Unsupported(
                    f"the document {embedded.document.id!r} has expires_at, and an existing table has no expiry",
                    stage="write",
                )
        if documents:
            await self._access.write(lambda connection, shape: self._upsert(connection, shape, documents, tenant))
            self._tenants.forget(tenant)

    async def delete(self, document_ids: Sequence[str], *, tenant: str) -> int:
        """Remove documents with their chunks; return how many documents were removed."""
        # The ids are collected over all attempts: if the answer to a COMMIT is lost, the next attempt finds no documents to delete.
        deleted: set[str] = set()
        ids = list(document_ids)

        async def work(connection: PooledConnection, shape: Shape) -> None:
            owner = await self._begin(connection, shape, ids, tenant)
            deleted.update(await self._delete_chunks(connection, shape, owner, ids))
            if shape.table.parent is not None:
                rows = await connection.fetch(writing_statement("delete_parents", shape), owner, _known(ids, shape))
                deleted.update(row["id"] for row in rows)

        if ids:
            await self._access.write(work)
            self._tenants.forget(tenant)
        return len(deleted)

    async def _upsert(
        self, connection: PooledConnection, shape: Shape, documents: Sequence[EmbeddedDocument], tenant: str
    ) -> None:
        ids = [embedded.document.id for embedded in documents]
        for embedded in documents:
            if id_of(embedded.document.id, shape.document_type) is None:
                raise InvalidInput(
                    f"the document's id {embedded.document.id!r} is not a value of the type {shape.document_type}, which its column has"
                )
            if len(embedded.vectors):
                self._access.check_dimension(embedded.vectors[0])
        owner = await self._begin(connection, shape, ids, tenant)
        await self._delete_chunks(connection, shape, owner, ids)
        if shape.table.parent is not None:
            await self._write_parents(connection, shape, owner, documents)
        statement = writing_statement("insert_chunks", shape)
        for columns in slices(_rows(documents, shape, tenant)):
            await connection.execute(statement, owner, *columns)
        visible = await connection.fetchval(writing_statement("written", shape), owner, _known(ids, shape))
        written = sum(len(embedded.chunks) for embedded in documents)
        if visible != written:
            raise ConfigurationError(
                f"searches of the tenant would find {visible} of the {written} chunks in {shape.table.relation}, so nothing was written: their rows must "
                "satisfy the predicate and the policies of the table (see constants)",
                stage="write",
            )

    async def _begin(self, connection: PooledConnection, shape: Shape, ids: Sequence[str], tenant: str) -> object:
        """Set the settings for the transaction and lock the documents; return the tenant as a value of its column."""
        for name, value in shape.table.settings.items():
            await connection.execute("select set_config($1, $2, true)", name, value(tenant))
        owner = tenant_of(tenant, shape.tenant_type)
        # Without this lock, two writers of the same document could both insert its chunks.
        await connection.execute(
            writing_statement("lock_documents", shape), f"{shape.table.relation}\n{owner}\n", list(ids)
        )
        return owner

    async def _delete_chunks(
        self, connection: PooledConnection, shape: Shape, owner: object, ids: Sequence[str]
    ) -> set[str]:
        """Delete the chunks of some documents; return the ids of the documents that had chunks."""
        values = [owner, _known(ids, shape), *([list(ids)] if shape.has_lone_chunks else [])]
        return {row["id"] for row in await connection.fetch(writing_statement("delete_chunks", shape), *values)}

    async def _write_parents(
        self, connection: PooledConnection, shape: Shape, owner: object, documents: Sequence[EmbeddedDocument]
    ) -> None:
        """Update the tenant's rows of the parent, and insert the missing ones."""
        known = _known([embedded.document.id for embedded in documents], shape)
        rows = await connection.fetch(writing_statement("own_parents", shape), owner, known)
        own = {row["id"] for row in rows}
        for name, exist in (("update_parents", True), ("insert_parents", False)):
            chosen = [one for one in documents if (id_of(one.document.id, shape.document_type) in own) is exist]
            if chosen:
                await connection.execute(writing_statement(name, shape), owner, *_parent_columns(chosen))


def _known(ids: Sequence[str], shape: Shape) -> list[str]:
    """Return the ids of documents that are values of their column."""
    return [known for one in ids if (known := id_of(one, shape.document_type)) is not None]


def _parent_columns(documents: Sequence[EmbeddedDocument]) -> Iterator[list[Any]]:
    yield [one.document.id for one in documents]
    yield [one.document.title for one in documents]
    yield [one.document.source for one in documents]
    yield [json.dumps(dict(one.document.metadata), ensure_ascii=False) for one in documents]
    yield [one.content_hash for one in documents]


def _rows(documents: Sequence[EmbeddedDocument], shape: Shape, tenant: str) -> Iterator[tuple[Any, ...]]:
    """Yield the chunks of documents as rows."""
    for embedded in documents:
        document = embedded.document
        for position, (chunk, vector) in enumerate(zip(embedded.chunks, embedded.vectors, strict=True)):
            yield (
                new_id_of(chunk.id, shape.id_type, tenant=tenant),
                document.id,
                position,
                chunk.text,
                document.title,
                document.source,
                json.dumps({**document.metadata, **chunk.metadata}, ensure_ascii=False),
                encode_vector(vector),
                embedded.content_hash,
            )

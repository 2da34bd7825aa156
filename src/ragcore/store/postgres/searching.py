"""Search a collection. A search takes one statement and one round trip, and one more for the first text search of a tenant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import asyncpg
import numpy as np

from ragcore.errors import InvalidInput
from ragcore.protocols import Diagnosis, Found, Query, Scores, Vector
from ragcore.store.postgres.collection import Collection, StoreSettings, search_statement
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.explanation import Explanation, explain_plan, explanation_of
from ragcore.store.postgres.index import partition_name
from ragcore.store.postgres.passages import Scan, found_of, nearest, passage_of, ranked
from ragcore.store.postgres.searches import adjacent_statement, chunks_statement
from ragcore.store.postgres.tenants import REMEMBER_SECONDS, Tenants
from ragcore.types import Passage
from ragcore.types.validation import check_tenant

__all__ = ["Searching"]


class Searching:
    """Searches a collection, and diagnoses empty results.

    Invariant: every statement sets the tenant itself, so it does not depend on earlier statements of the connection.

    Args:
        settings: the store's settings.
        collection: the collection to search.
        tenants: remembered facts about tenants. Searches read and update them.
    """

    def __init__(self, settings: StoreSettings, collection: Collection, tenants: Tenants) -> None:
        self._settings = settings
        self._collection = collection
        self._tenants = tenants

    async def search(self, query: Query) -> Sequence[Passage]:
        """Return the tenant's passages, best first. See `Searcher.search`."""
        _check(query)
        # Read the facts once, before all attempts. The statement determines those that are unknown here, and only these are stored below.
        known = self._exactly(query)
        tenants = (query.tenant, *query.shared)
        sizes = [self._tenants.chunks.get(tenant) for tenant in tenants]

        async def work(connection: PooledConnection) -> list[asyncpg.Record]:
            sql, values = await self._statement(connection, query, known, sizes)
            return await connection.fetch(sql, *values)

        rows = await self._collection.read(work, stage="search", tenants=tenants)
        result = nearest(rows, query) if query.mode == "vector" else ranked(rows, query)
        # For a filtered search, the scan depends on the number of chunks that the filter leaves, not on the tenant's size.
        if known is None and result.scan is not None and query.filter is None and not query.shared:
            self._tenants.exactly.put(query.tenant, result.scan == "exact")
        if None in sizes and query.mode != "vector" and rows:
            for tenant, size, found in zip(tenants, sizes, rows[0]["chunks"] or (), strict=False):
                if size is None:
                    self._tenants.chunks.put(tenant, found)
        return result

    async def explain(self, query: Query) -> Explanation:
        """Run a search, and the same search with EXPLAIN ANALYZE. See `PgVectorStore.explain`."""
        _check(query)
        known = self._exactly(query)
        tenants = (query.tenant, *query.shared)
        sizes = [self._tenants.chunks.get(tenant) for tenant in tenants]

        async def work(connection: PooledConnection) -> Explanation:
            sql, values = await self._statement(connection, query, known, sizes)
            rows = await connection.fetch(sql, *values)
            found = nearest(rows, query) if query.mode == "vector" else ranked(rows, query)
            plan = await explain_plan(connection, sql, values)
            return explanation_of(
                plan,
                query,
                scan=found.scan,
                kind=connection.index_kind,
                tables=["chunk", *(partition_name("chunk", number) for number in range(connection.partitions))],
                advice=[*_advice(found.scan, self._settings)],
            )

        return await self._collection.read(work, stage="search", tenants=tenants)

    async def _statement(
        self, connection: PooledConnection, query: Query, exactly: bool | None, sizes: Sequence[float | None]
    ) -> tuple[str, list[object]]:
        """Return the statement of a search and the values of its parameters. `exactly` and `sizes` are the facts that are known."""
        # The model is checked here and not before the call, because the collection's model is known only after the first connection was inspected.
        self._collection.check_model(query.model, connection)
        # Postings of expired chunks would take the places of others in the lists. So a tenant with expired documents is searched as with a filter, and so
        # are shared tenants, for which ragcore does not read whether they have any. A query with a filter needs nothing more, and vectors have no postings.
        hides = query.mode != "vector" and query.filter is None
        hides = hides and (bool(query.shared) or await self._hides(connection, query.tenant))
        return search_statement(
            self._settings,
            connection,
            query,
            exactly=exactly,
            chunks=sizes,
            scans_text=not connection.text_is_ready,
            hides_expired=hides,
        )

    async def shared_tenants(self) -> Sequence[str]:
        """Return the tenants that the owner has marked as shared."""
        return [row["tenant"] for row in await self._collection.fetch("shared_tenants", stage="search")]

    async def adjacent(self, passages: Sequence[Passage], *, tenant: str, distance: int) -> Sequence[Sequence[Passage]]:
        """Return the chunks around each passage. See `AdjacentChunks`."""
        check_tenant(tenant)
        shared = sorted({passage.shared for passage in passages if passage.shared is not None})
        owners = [passage.shared or tenant for passage in passages]
        ids = [passage.chunk_id for passage in passages]

        async def work(connection: PooledConnection) -> list[asyncpg.Record]:
            sql = adjacent_statement(schema=self._settings.schema)
            return await connection.fetch(sql, tenant, owners, ids, distance, shared)

        found: list[list[Passage]] = [[] for _ in passages]
        for row in await self._collection.read(work, stage="search", tenants=(tenant, *shared)):
            found[row["nth"] - 1].append(passage_of(row))
        return found

    async def document_chunks(self, document_id: str, *, tenant: str, with_vectors: bool) -> Found:
        """Return all chunks of a document, in the order of its text. See `ChunkReader`."""
        sql = chunks_statement("document", schema=self._settings.schema, with_vectors=with_vectors)
        return await self._chunks(sql, tenant, document_id, with_vectors=with_vectors)

    async def chunks_by_id(self, chunk_ids: Sequence[str], *, tenant: str, with_vectors: bool) -> Found:
        """Return the chunks with these ids. See `ChunkReader`."""
        sql = chunks_statement("id", schema=self._settings.schema, with_vectors=with_vectors)
        return await self._chunks(sql, tenant, list(dict.fromkeys(chunk_ids)), with_vectors=with_vectors)

    async def _chunks(self, sql: str, tenant: str, wanted: str | list[str], *, with_vectors: bool) -> Found:
        check_tenant(tenant)

        async def work(connection: PooledConnection) -> list[asyncpg.Record]:
            return await connection.fetch(sql, tenant, wanted)

        return found_of(await self._collection.read(work, stage="search", tenants=(tenant,)), with_vectors=with_vectors)

    async def scores(self, vector: Vector, *, tenant: str, limit: int | None) -> Scores:
        """Return the exact similarity of the tenant's chunks to `vector`, best first."""
        check_tenant(tenant)
        rows = await self._collection.fetch_anywhere("scores", tenant, vector, limit, stage="search", tenants=(tenant,))
        return Scores(
            document_ids=rows[0]["document_ids"] or [],
            chunk_ids=rows[0]["ids"] or [],
            scores=np.array(rows[0]["scores"] or [], dtype=np.float32),
        )

    async def diagnose(self, query: Query) -> Diagnosis:
        """Return the number of the tenant's chunks and the models of their vectors.

        Bypasses the policy: the search has succeeded, so an error here must not count as a failure of the database.
        """

        async def work(connection: PooledConnection) -> Diagnosis:
            row = await connection.fetchrow(self._collection.statement("diagnose", connection), query.tenant)
            assert row is not None
            everywhere = None
            # All tenants' chunks are counted only if this tenant has none, because its name may be mistyped. The count reads the whole table.
            if not row["chunks"]:
                everywhere = await connection.fetchval(
                    f"select chunks from ({self._collection.statement('count_all', connection)}) as counted"  # noqa: S608  # a file of this package
                )
            return Diagnosis(
                chunks=row["chunks"],
                not_embedded=row["not_embedded"],
                models=row["models"] or (),
                store_chunks=everywhere,
            )

        return await self._collection.call_directly(work, tenant=query.tenant)

    def _exactly(self, query: Query) -> bool | None:
        """Whether to search exactly; None: let the statement count."""
        if query.filter is not None or query.shared:
            return None
        exactly = self._tenants.exactly.get(query.tenant)
        # The function that continues a search of the index returns no vectors.
        return None if query.with_vectors and exactly is False else exactly

    async def _hides(self, connection: PooledConnection, tenant: str) -> bool:
        """Whether the tenant has expired documents that are still stored, or documents that expire while the answer is remembered."""
        known = self._tenants.hides_expired.get(tenant)
        if known is None:
            statement = self._collection.statement("has_expired", connection)
            # The time of the answer is added: it is remembered from its arrival on.
            known = bool(await connection.fetchval(statement, tenant, 1.5 * REMEMBER_SECONDS))
            self._tenants.hides_expired.put(tenant, known)
        return known


def _check(query: Query) -> None:
    check_tenant(query.tenant)
    if query.mode != "text" and query.vector is None:
        raise InvalidInput(f"mode {query.mode!r} needs a vector")


def _advice(scan: Scan | None, settings: StoreSettings) -> Iterator[str]:
    if scan == "completed":
        yield (
            "other tenants' chunks are nearer to this question than the tenant's own; if many questions are completed, raise exact_rows"
            f"{'' if settings.exact_rows is None else f' (now {settings.exact_rows:,})'}, so that more tenants are searched exactly from the start"
        )

"""`TableStore`: searches an existing table, without a migration, and writes to it if the mapping allows that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg
import numpy as np

from ragcore.errors import ConfigurationError, InvalidInput, Unsupported
from ragcore.lifecycle.part import Part
from ragcore.protocols import Diagnosis, EmbeddedDocument, Found, Query, Scores, Vector
from ragcore.resilience import Policy
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.dsn import parse
from ragcore.store.postgres.explanation import Explanation
from ragcore.store.postgres.passages import found_of, nearest, passage_of, ranked
from ragcore.store.postgres.policies import search_policy, writing_policy
from ragcore.store.postgres.recall import Recall, measure
from ragcore.store.postgres.table.access import TableAccess
from ragcore.store.postgres.table.explanation import explain
from ragcore.store.postgres.table.inspection import TableInspection
from ragcore.store.postgres.table.recall import Call, TableSearched, Work, reading_chunks
from ragcore.store.postgres.table.statements import Shape, search_of, statement_of
from ragcore.store.postgres.table.values import id_of, parameters, tenant_of
from ragcore.store.postgres.table.writing import TableWriting
from ragcore.store.postgres.tenants import Tenants
from ragcore.store.table import Table
from ragcore.types import Counts, Passage
from ragcore.types.secret import Secret
from ragcore.types.validation import check_tenant

__all__ = ["TableStore"]

READS_ONLY = (
    "this TableStore only reads, because the table belongs to another program: to write, set writable in the mapping"
)


class TableStore(Part):
    """Searches an existing table of chunks, which other programs fill. It needs no migration, and only reads unless the mapping is `writable`.

    Args:
        dsn: as in `PgVectorStore`. The role needs SELECT on the table and its parent; to write, also INSERT and DELETE, and UPDATE on the parent.
        table: the mapping: names of the table, its columns and its parent, and the way in which tenants are isolated.
        pool_size: largest number of connections. They are opened when needed.
        exact_rows: a tenant with at most this number of chunks is searched exactly, a larger one through the index. None: the number of chunks whose
            vectors hold 2 million numbers, such as 1,302 of 1,536 dimensions.
        ef_search: breadth of the search in an HNSW index, 1 to 1,000.
        policy: policy of searches. None: at most `pool_size` searches at once, 4 attempts, a circuit breaker.
        write_policy: policy of writes, as in `PgVectorStore`.

    `start` opens no connection. The store compares the mapping with the database in the background and logs each problem; a call raises them as an error.

    Each search is one statement. A search of a large tenant reads the first chunks of the index; if too few of them are the tenant's, a second statement reads
    further, and for a minute this tenant's searches read further at once. With `Table.role`, a search runs in a transaction after `set local role`, which takes
    three round trips instead of one.

    A document is written in one transaction, which changes only rows of its tenant: if another tenant has a chunk or a document with the same id, and the
    table allows an id only once, the error is `InvalidInput`. Fields without a column in the mapping are not stored. Without `Table.writable`, methods that
    write raise `Unsupported`.

    Raises:
        ConfigurationError: an argument is invalid. At first use: the mapping does not fit the database, and the message says why.
        StoreError: PostgreSQL can't be reached, or it failed.
    """

    policy: Policy
    write_policy: Policy

    def __init__(
        self,
        dsn: str | Secret,
        table: Table,
        *,
        pool_size: int = 10,
        exact_rows: int | None = None,
        ef_search: int = 100,
        policy: Policy | None = None,
        write_policy: Policy | None = None,
    ) -> None:
        if pool_size < 1:
            raise ConfigurationError(f"pool_size is {pool_size}: it must be at least 1")
        if not 1 <= ef_search <= 1_000:
            raise ConfigurationError(f"ef_search is {ef_search}: it must be from 1 to 1,000, as pgvector requires")
        if exact_rows is not None and exact_rows < 0:
            raise ConfigurationError(f"exact_rows is {exact_rows}: it must be at least 0")
        self._address = parse(dsn)
        self.table = table
        self.pool_size = pool_size
        self.exact_rows = exact_rows
        self.ef_search = ef_search
        self.policy = policy or search_policy(pool_size)
        self.write_policy = write_policy or writing_policy(pool_size)
        self._tenants = Tenants()
        self._access = TableAccess(self, self._address, check_open=self._check_open)
        self._writing = TableWriting(self._access, self._tenants)

    async def search(self, query: Query, /) -> Sequence[Passage]:
        """Return the tenant's passages, best first, in one statement. See `Searcher.search`.

        Raises:
            InvalidInput: the query has no vector, and its mode is not "text".
            Unsupported: the query names shared tenants.
        """
        _check_query(query)
        exactly = None if query.filter is not None else self._tenants.exactly.get(query.tenant)
        rows = await self._rows(query, exactly, self._access.call)
        result = nearest(rows, query) if query.mode == "vector" else ranked(rows, query)
        if exactly is None and result.scan in ("exact", "index") and query.filter is None:
            self._tenants.exactly.put(query.tenant, result.scan == "exact")
        if query.mode != "vector" and rows and self._tenants.chunks.get(query.tenant) is None:
            self._tenants.chunks.put(query.tenant, rows[0]["chunks"][0])
        return result

    async def _rows(self, query: Query, exactly: bool | None, call: Call) -> list[asyncpg.Record]:
        """Return the rows of a search. `exactly` is as in `search_of`."""
        # Read before the search: a search of the same tenant that runs at the same time may set it meanwhile.
        walks_on = self._walks_on(query)
        rows = await call(self._search(query, exactly, walks_on=walks_on))
        if exactly is False and query.mode == "vector" and len(rows) < query.top_k and not walks_on:
            # Too few of the first chunks of the index are the tenant's. Its next searches walk on at once.
            self._tenants.walks_on.put(query.tenant, True)
            rows = await call(self._search(query, exactly, walks_on=True))
        return rows

    def _search(self, query: Query, exactly: bool | None, *, walks_on: bool) -> Work:
        async def work(connection: PooledConnection, shape: Shape) -> list[asyncpg.Record]:
            sql, values = self._statement(query, shape, exactly, walks_on=walks_on)
            return await connection.fetch(sql, *values)

        return work

    def _statement(
        self, query: Query, shape: Shape, exactly: bool | None, *, walks_on: bool
    ) -> tuple[str, list[object]]:
        self._access.check_dimension(query.vector)
        return search_of(
            query,
            shape,
            tenant=tenant_of(query.tenant, shape.tenant_type),
            exactly=exactly,
            walks_on=walks_on,
            exact_rows=self.exact_rows,
            ef_search=self.ef_search,
            chunks=self._tenants.chunks.get(query.tenant),
        )

    def _walks_on(self, query: Query) -> bool:
        return self._tenants.walks_on.get(query.tenant) is True

    async def adjacent(
        self, passages: Sequence[Passage], /, *, tenant: str, distance: int
    ) -> Sequence[Sequence[Passage]]:
        """Return the chunks around each passage. See `AdjacentChunks`.

        Raises:
            Unsupported: the mapping names no column for the order of chunks.
        """
        self._check_order()

        async def work(connection: PooledConnection, shape: Shape) -> list[asyncpg.Record]:
            ids = [id_of(passage.chunk_id, shape.id_type) for passage in passages]
            sql = statement_of("adjacent", shape, values=3)
            return await connection.fetch(sql, *parameters(tenant, shape, ids, distance))

        check_tenant(tenant)
        found: list[list[Passage]] = [[] for _ in passages]
        for row in await self._access.call(work):
            found[row["nth"] - 1].append(passage_of(row))
        return found

    async def document_chunks(self, document_id: str, /, *, tenant: str, with_vectors: bool = False) -> Found:
        """Return all chunks of a document in the order of its text. See `ChunkReader`.

        Raises:
            Unsupported: the mapping names no column for the order of chunks.
        """
        self._check_order()

        async def work(connection: PooledConnection, shape: Shape) -> list[asyncpg.Record]:
            typed = id_of(document_id, shape.document_type)
            sql = statement_of("document_chunks", shape, values=3, with_vectors=with_vectors)
            return await connection.fetch(sql, *parameters(tenant, shape, typed, document_id))

        check_tenant(tenant)
        return found_of(await self._access.call(work), with_vectors=with_vectors)

    async def chunks_by_id(self, chunk_ids: Sequence[str], /, *, tenant: str, with_vectors: bool = False) -> Found:
        """Return the chunks with these ids. See `ChunkReader`."""
        check_tenant(tenant)
        work = reading_chunks(tenant, chunk_ids, with_vectors=with_vectors)
        return found_of(await self._access.call(work), with_vectors=with_vectors)

    async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
        """Return the exact similarity of the tenant's chunks to `vector`, best first."""

        async def work(connection: PooledConnection, shape: Shape) -> asyncpg.Record | None:
            self._access.check_dimension(vector)
            sql = statement_of("scores", shape, values=3)
            return await connection.fetchrow(sql, *parameters(tenant, shape, vector, limit))

        check_tenant(tenant)
        row = await self._access.call(work)
        assert row is not None
        return Scores(
            document_ids=row["document_ids"] or [],
            chunk_ids=row["ids"] or [],
            scores=np.array(row["scores"] or [], dtype=np.float32),
        )

    async def count(self, *, tenant: str | None) -> Counts:
        """Return the numbers of documents and chunks of a tenant.

        Raises:
            Unsupported: `tenant` is None. No statement of this store reads rows of all tenants.
        """
        if tenant is None:
            raise Unsupported("a TableStore counts the rows of one tenant, not those of all", stage="search")
        check_tenant(tenant)
        row = await self._access.call(_counting(tenant))
        assert row is not None
        return Counts(documents=row["documents"], chunks=row["chunks"], not_embedded=row["not_embedded"])

    async def hashes(self, document_ids: Sequence[str] | None, /, *, tenant: str) -> Mapping[str, str]:
        """Return the ids of the tenant's documents with their content hashes. They are empty if the mapping names no column for them."""
        ids = None if document_ids is None else list(document_ids)

        async def work(connection: PooledConnection, shape: Shape) -> list[asyncpg.Record]:
            sql = statement_of("documents", shape, values=2)
            return await connection.fetch(sql, *parameters(tenant, shape, ids))

        check_tenant(tenant)
        return {row["id"]: row["hash"] for row in await self._access.call(work)}

    async def diagnose(self, query: Query, /) -> Diagnosis:
        """Return the number of the tenant's chunks. Bypasses the policy, like `PgVectorStore.diagnose`."""
        work = _counting(query.tenant)
        row = await self._access.call_directly(work)
        assert row is not None
        return Diagnosis(chunks=row["chunks"], not_embedded=row["not_embedded"])

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        """Add documents, or replace those with the same ids, in one transaction. Of several documents with the same id, the last one is stored.

        Raises:
            Unsupported: the mapping is not writable, or a document has a time at which it expires.
            InvalidInput: another tenant has an id of a chunk or document, or the type of a column does not allow an id.
            ConfigurationError: the vectors have another dimension, the database refuses the rows, or the tenant's searches would not find them.
        """
        check_tenant(tenant)
        self._check_writable()
        await self._writing.upsert(documents, tenant=tenant)

    async def delete(self, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """Remove documents with their chunks; return how many documents were removed.

        Raises:
            Unsupported: the mapping is not writable.
            ConfigurationError: another table refers to a row, so the database does not delete it.
        """
        check_tenant(tenant)
        self._check_writable()
        return await self._writing.delete(document_ids, tenant=tenant)

    async def explain(self, query: Query, /) -> Explanation:
        """Run a search with EXPLAIN ANALYZE, as for a large tenant. The result names the indexes that it uses, its time, and the indexes to create.

        Raises:
            InvalidInput: the query has no vector, and its mode is not "text".
            Unsupported: the query names shared tenants.
        """
        _check_query(query)

        async def work(connection: PooledConnection, shape: Shape) -> Explanation:
            sql, values = self._statement(query, shape, False, walks_on=self._walks_on(query))
            return await explain(connection, self.table, shape, query, sql, values)

        return await self._access.call(work)

    async def measure_recall(
        self,
        *,
        tenant: str,
        sample: int = 200,
        top_k: int = 10,
        seconds: float = 60.0,
        vectors: Sequence[Vector] | None = None,
    ) -> Recall:
        """Measure the recall of the table's index: search for random stored vectors of a tenant, as `search` does and exactly, and compare the results.

        A sampled chunk is not counted in the search for its own vector. The searches run one after another, beside other calls, and bypass the policy.

        Args:
            tenant: the tenant whose chunks are sampled and searched. No statement of this store reads rows of all tenants.
            sample, top_k, seconds, vectors: as in `PgVectorStore.measure_recall`.

        Raises:
            InvalidInput: an argument is out of range.
            ConfigurationError: the mapping does not fit.
            StoreError: PostgreSQL can't be reached, or it failed.
        """
        searched = TableSearched(self._access, self._rows)
        return await measure(
            searched, self._address, sample=sample, tenant=tenant, top_k=top_k, seconds=seconds, vectors=vectors
        )

    async def inspect(self) -> TableInspection:
        """Compare the mapping with the database."""
        return await self._access.inspect()

    async def ping(self) -> None:
        """Check the mapping through the pool and the policy.

        Raises:
            ConfigurationError: the mapping does not fit.
        """
        await self._access.ping()

    async def first_look(self) -> TableInspection | None:
        """Wait for the check at start and return its result; None if the database could not be reached."""
        return await self._access.first_look()

    def snapshot(self) -> Mapping[str, Any]:
        """Return the use of the pool as serialisable data."""
        return self._access.snapshot()

    def describe(self) -> Mapping[str, Any]:
        """Return the address and the table of the store, without secrets."""
        address = self._address
        return {
            "host": address.host,
            "port": address.port,
            "database": address.database,
            "user": address.user,
            "table": self.table.relation,
            "isolation": self.table.isolation,
            "writable": self.table.writable,
        }

    def _check_writable(self) -> None:
        if not self.table.writable:
            raise Unsupported(READS_ONLY, stage="write")

    def _check_order(self) -> None:
        if self.table.order is None:
            raise Unsupported("the mapping has no order: name the column with the position of a chunk in its document")

    async def _open(self) -> None:
        self._access.open()

    async def _close(self) -> None:
        await self._access.close()


def _check_query(query: Query) -> None:
    check_tenant(query.tenant)
    if query.mode != "text" and query.vector is None:
        raise InvalidInput(f"mode {query.mode!r} needs a vector")
    if query.shared:
        raise Unsupported("a TableStore has no shared tenants", stage="search")


def _counting(tenant: str) -> Callable[[PooledConnection, Shape], Awaitable[asyncpg.Record | None]]:
    async def work(connection: PooledConnection, shape: Shape) -> asyncpg.Record | None:
        return await connection.fetchrow(statement_of("count", shape, values=1), *parameters(tenant, shape))

    return work

"""`TableStore`: searches a table that is already there, without a migration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np

from ragcore.errors import ConfigurationError, InvalidInput, Unsupported
from ragcore.lifecycle.part import Part
from ragcore.protocols import Diagnosis, EmbeddedDocument, Found, Query, Scores, Vector
from ragcore.resilience import Bulkhead, Policy, RetryPolicy
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.dsn import parse
from ragcore.store.postgres.explanation import Explanation
from ragcore.store.postgres.passages import found_of, nearest, passage_of, ranked
from ragcore.store.postgres.table.access import TableAccess
from ragcore.store.postgres.table.checking import TableInspection
from ragcore.store.postgres.table.explanation import explain
from ragcore.store.postgres.table.statements import Shape, search_of, statement_of
from ragcore.store.postgres.tenants import Tenants
from ragcore.store.table import Table
from ragcore.types import Counts, Passage
from ragcore.types.secret import Secret
from ragcore.types.validation import check_tenant

__all__ = ["TableStore"]

READS_ONLY = "a TableStore only reads: the table belongs to another program"
INTEGER_BITS = {"int2": 16, "int4": 32, "int8": 64}


class TableStore(Part):
    """Searches an existing table of chunks, which other programs fill. It only reads, and needs no migration.

    Args:
        dsn: as in `PgVectorStore`. The role needs SELECT on the table and its parent, and nothing else.
        table: the mapping: names of the table, its columns, its parent, and what isolates the tenants.
        pool_size: largest number of connections. They are opened when needed.
        exact_rows: a tenant with at most this number of chunks is searched exactly, a larger one through the index. None: the number of chunks whose
            vectors hold 2 million numbers, such as 1,302 of 1,536 dimensions.
        ef_search: breadth of the search in an HNSW index, 1 to 1,000.
        policy: policy of searches. None: at most `pool_size` searches at once, 4 attempts, a circuit breaker.

    `start` opens no connection. The store compares the mapping with the database in the background and logs each problem; calls raise them. Each search
    is one statement; a second one follows in the rare case that the index suddenly returns too few chunks of a large tenant. With `Table.role`, a search runs
    in a transaction after `set local role`, which takes three round trips instead of one.

    Methods that write raise `Unsupported`.

    Raises:
        ConfigurationError: an argument is invalid. At first use: the mapping does not fit the database, and the message says why.
        StoreError: PostgreSQL can't be reached, or it failed.
    """

    policy: Policy

    def __init__(
        self,
        dsn: str | Secret,
        table: Table,
        *,
        pool_size: int = 10,
        exact_rows: int | None = None,
        ef_search: int = 100,
        policy: Policy | None = None,
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
        self.policy = policy or Policy(
            "database",
            attempt_timeout=10.0,
            bulkhead=Bulkhead(pool_size, queue=max(256, 16 * pool_size)),
            retry=RetryPolicy(attempts=4, backoff=0.05, max_backoff=1.0),
        )
        self._tenants = Tenants()
        self._access = TableAccess(self, self._address, check_open=self._check_open)

    async def search(self, query: Query, /) -> Sequence[Passage]:
        """Return the tenant's passages, best first, in one statement. See `Searcher.search`.

        Raises:
            Unsupported: the query names shared tenants.
        """
        check_tenant(query.tenant)
        if query.mode != "text" and query.vector is None:
            raise InvalidInput(f"mode {query.mode!r} needs a vector")
        if query.shared:
            raise Unsupported("a TableStore has no shared tenants", stage="search")
        exactly = None if query.filter is not None else self._tenants.exactly.get(query.tenant)
        rows = await self._rows(query, exactly)
        if exactly is False and query.mode == "vector" and len(rows) < query.top_k:
            # The index returned too few. This is rare, because the tenant was searched through the index before, without completing.
            exactly = None
            self._tenants.forget(query.tenant)
            rows = await self._rows(query, exactly)
        result = nearest(rows, query) if query.mode == "vector" else ranked(rows, query)
        if exactly is None and result.scan in ("exact", "index") and query.filter is None:
            self._tenants.exactly.put(query.tenant, result.scan == "exact")
        if query.mode != "vector" and rows and self._tenants.chunks.get(query.tenant) is None:
            self._tenants.chunks.put(query.tenant, rows[0]["chunks"][0])
        return result

    async def _rows(self, query: Query, exactly: bool | None) -> list[asyncpg.Record]:
        """Return the rows of a search. `exactly` is as in `search_of`."""
        chunks = self._tenants.chunks.get(query.tenant)

        async def work(connection: PooledConnection, shape: Shape) -> list[asyncpg.Record]:
            self._access.check_dimension(query.vector)
            sql, values = search_of(
                query,
                shape,
                tenant=_value_of(query.tenant, shape.tenant_type),
                exactly=exactly,
                exact_rows=self.exact_rows,
                ef_search=self.ef_search,
                chunks=chunks,
            )
            return await connection.fetch(sql, *values)

        return await self._access.call(work)

    async def adjacent(
        self, passages: Sequence[Passage], /, *, tenant: str, distance: int
    ) -> Sequence[Sequence[Passage]]:
        """Return the chunks around each passage. See `AdjacentChunks`.

        Raises:
            Unsupported: the mapping names no column for the order of chunks.
        """
        self._check_order()

        async def work(connection: PooledConnection, shape: Shape) -> list[asyncpg.Record]:
            ids = [_id_of(passage.chunk_id, shape.id_type) for passage in passages]
            sql = statement_of("adjacent", shape, values=3)
            return await connection.fetch(sql, *_values(tenant, shape, ids, distance))

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
            typed = _id_of(document_id, shape.document_type)
            sql = statement_of("document_chunks", shape, values=3, with_vectors=with_vectors)
            return await connection.fetch(sql, *_values(tenant, shape, typed, document_id))

        check_tenant(tenant)
        return found_of(await self._access.call(work), with_vectors=with_vectors)

    async def chunks_by_id(self, chunk_ids: Sequence[str], /, *, tenant: str, with_vectors: bool = False) -> Found:
        """Return the chunks with these ids. See `ChunkReader`."""

        async def work(connection: PooledConnection, shape: Shape) -> list[asyncpg.Record]:
            ids = list(dict.fromkeys(_id_of(chunk_id, shape.id_type) for chunk_id in chunk_ids))
            sql = statement_of("chunks_by_id", shape, values=2, with_vectors=with_vectors)
            return await connection.fetch(sql, *_values(tenant, shape, ids))

        check_tenant(tenant)
        return found_of(await self._access.call(work), with_vectors=with_vectors)

    async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
        """Return the exact similarity of the tenant's chunks to `vector`, best first."""

        async def work(connection: PooledConnection, shape: Shape) -> asyncpg.Record | None:
            self._access.check_dimension(vector)
            sql = statement_of("scores", shape, values=3)
            return await connection.fetchrow(sql, *_values(tenant, shape, vector, limit))

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
            Unsupported: `tenant` is None: no statement of this store reads rows of all tenants.
        """
        if tenant is None:
            raise Unsupported("a TableStore counts the rows of one tenant, not those of all", stage="search")
        check_tenant(tenant)
        row = await self._access.call(_counting(tenant))
        assert row is not None
        return Counts(documents=row["documents"], chunks=row["chunks"], not_embedded=row["not_embedded"])

    async def hashes(self, document_ids: Sequence[str] | None, /, *, tenant: str) -> Mapping[str, str]:
        """Return the ids of the tenant's documents, each with an empty hash, because the table has no content hashes."""
        ids = None if document_ids is None else list(document_ids)

        async def work(connection: PooledConnection, shape: Shape) -> list[asyncpg.Record]:
            sql = statement_of("documents", shape, values=2)
            return await connection.fetch(sql, *_values(tenant, shape, ids))

        check_tenant(tenant)
        return {row["id"]: "" for row in await self._access.call(work)}

    async def diagnose(self, query: Query, /) -> Diagnosis:
        """Return the number of the tenant's chunks. Bypasses the policy, like `PgVectorStore.diagnose`."""
        work = _counting(query.tenant)
        row = await self._access.call_directly(work)
        assert row is not None
        return Diagnosis(chunks=row["chunks"], not_embedded=row["not_embedded"])

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        """Raise `Unsupported`: this store only reads."""
        check_tenant(tenant)
        raise Unsupported(READS_ONLY, stage="write")

    async def delete(self, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """Raise `Unsupported`: this store only reads."""
        check_tenant(tenant)
        raise Unsupported(READS_ONLY, stage="write")

    async def explain(self, query: Query, /) -> Explanation:
        """Run a search with EXPLAIN ANALYZE, as for a large tenant: which indexes it uses, how long it takes, and which index to create."""
        check_tenant(query.tenant)

        async def work(connection: PooledConnection, shape: Shape) -> Explanation:
            self._access.check_dimension(query.vector)
            sql, values = search_of(
                query,
                shape,
                tenant=_value_of(query.tenant, shape.tenant_type),
                exactly=False,
                exact_rows=self.exact_rows,
                ef_search=self.ef_search,
                chunks=self._tenants.chunks.get(query.tenant),
            )
            return await explain(connection, self.table, shape, query, sql, values)

        return await self._access.call(work)

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
        }

    def _check_order(self) -> None:
        if self.table.order is None:
            raise Unsupported("the mapping has no order: name the column with the place of a chunk in its document")

    async def _open(self) -> None:
        self._access.open()

    async def _close(self) -> None:
        await self._access.close()


def _values(tenant: str, shape: Shape, *values: object) -> list[object]:
    """Return the values of a statement's parameters: the tenant, the given ones, and those of the settings."""
    settings = [value(tenant) for value in shape.table.settings.values()]
    return [_value_of(tenant, shape.tenant_type), *values, *settings]


def _counting(tenant: str) -> Callable[[PooledConnection, Shape], Awaitable[asyncpg.Record | None]]:
    async def work(connection: PooledConnection, shape: Shape) -> asyncpg.Record | None:
        return await connection.fetchrow(statement_of("count", shape, values=1), *_values(tenant, shape))

    return work


def _value_of(tenant: str, type_: str) -> object:
    """Return the tenant as a value of its column.

    Raises:
        InvalidInput: it is no value of the column's type. Only one spelling of an integer is accepted, so that no tenant has two names.
    """
    if type_ == "uuid":
        try:
            if str(parsed := UUID(tenant)) == tenant.lower():
                return parsed
        except ValueError:
            pass
        raise InvalidInput(f"the tenant {tenant!r} is not a UUID, and the column of the tenants has that type")
    if type_ in INTEGER_BITS:
        number = _integer(tenant, INTEGER_BITS[type_])
        if number is None:
            raise InvalidInput(
                f"the tenant {tenant!r} is not a number of the type {type_}, which the column of the tenants has"
            )
        return number
    return tenant


def _id_of(chunk_id: str, type_: str) -> str | None:
    """Return the id of a chunk if it is a value of its column; else None: there is no such chunk."""
    if type_ == "uuid":
        try:
            return str(UUID(chunk_id))
        except ValueError:
            return None
    if type_ in INTEGER_BITS:
        return None if _integer(chunk_id, INTEGER_BITS[type_]) is None else chunk_id
    return chunk_id


def _integer(text: str, bits: int) -> int | None:
    """Return the integer that a text spells in the usual way; None if it does not, or does not fit."""
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) <= 20):
        return None
    number = int(text)
    return number if str(number) == text and -(2 ** (bits - 1)) <= number < 2 ** (bits - 1) else None

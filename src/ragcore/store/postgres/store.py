"""PostgreSQL with pgvector as a store: one statement a search, tenants isolated by row-level security."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import anyio
import asyncpg
import numpy as np

from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.protocols import EmbeddedDocument, Query, Scores, Vector
from ragcore.resilience import Bulkhead, Policy, RetryPolicy, deadline
from ragcore.resilience.part import Part
from ragcore.secret import Secret
from ragcore.store.fusion import RANK_CONSTANT
from ragcore.store.postgres.conditions import Conditions
from ragcore.store.postgres.dsn import parse
from ragcore.store.postgres.pool import Connection, Pool, transaction, vector_schema
from ragcore.store.postgres.schema import MOST_INDEXED, MOST_INDEXED_WHOLE, SQL, Inspection, inspect, quoted
from ragcore.store.postgres.translate import judge, translate
from ragcore.types import Counts, Passage

__all__ = ["PgVectorStore"]

logger = logging.getLogger("ragcore.store")

T = TypeVar("T")

# Rows times dimensions: up to here an exact scan of a tenant's rows takes some 10 ms, which finding everything is worth; the index takes 1 to 2.
EXACT_NUMBERS = 2_000_000
# How long a tenant counts as small or large, and for how many tenants that is remembered.
REMEMBER_SECONDS = 60.0
REMEMBER_TENANTS = 10_000
LOOK_SECONDS = 10.0
# Dimensions from which a row may not hold its vector beside a long text; the function costs a fifth of the searches a second of small ones.
LARGE = 1_000
OWN = "case when tenant = plan.tenant then true else false end"
OWN_LARGE = "ragcore.is_of(tenant, plan.tenant)"
# What the index is on, word for word, or it is not used.
WHOLE = "embedding operator({vector}.<=>) $5"
HALF = (
    "embedding::{vector}.halfvec({dimension}) operator({vector}.<=>) $5::{vector}.vector::{vector}.halfvec({dimension})"
)
CHUNK_COLUMNS = (
    "id",
    "document_id",
    "position",
    "text",
    "title",
    "source",
    "start_char",
    "end_char",
    "metadata",
    "embedding",
)


class PgVectorStore(Part):
    """Chunks in PostgreSQL, found by pgvector, full text, or both.

    Args:
        dsn: postgresql://user:password@host:port/database; with `?pgbouncer=true` behind a pooler in transaction mode. The role should own
            nothing (`store.migrate` gives it what it needs): the owner and superusers aren't bound by row-level security as they should be.
        pool_size: connections at most, opened when needed.
        exact_rows: a tenant with at most as many chunks is searched exactly; a larger one through the HNSW index. None: as many as hold 2 million
            numbers, which is 5,208 chunks of 384 dimensions, 1,302 of 1,536.
        ef_search: how widely the index is searched, 1 to 1,000; more finds more and takes longer.
        policy: None: as many calls at once as connections, 4 attempts, a breaker.

    `start` makes no connection, so it returns at once also while the database is down. It looks at the role and the schema in the
    background and logs what is wrong. Runs on asyncio (asyncpg does).

    Raises:
        ConfigurationError: the DSN is not one; or later, when first used: wrong password, no such database, no pgvector, no schema, no right.
        StoreError: PostgreSQL can't be reached or failed.
    """

    def __init__(
        self,
        dsn: str | Secret,
        *,
        pool_size: int = 10,
        exact_rows: int | None = None,
        ef_search: int = 100,
        policy: Policy | None = None,
    ) -> None:
        if pool_size < 1:
            raise ConfigurationError(f"pool_size is {pool_size}: it must be at least 1")
        if not 1 <= ef_search <= 1_000:
            raise ConfigurationError(f"ef_search is {ef_search}: pgvector takes 1 to 1,000")
        self._address = parse(dsn)
        self.pool_size = pool_size
        self.exact_rows = exact_rows
        self.ef_search = ef_search
        self.policy = policy or Policy(
            "database",
            attempt_timeout=10.0,
            # As many may queue as at the other dependencies: whether their time suffices, the bulkhead knows.
            bulkhead=Bulkhead(pool_size, queue=max(256, 16 * pool_size)),
            retry=RetryPolicy(attempts=4, backoff=0.05, max_backoff=1.0),
        )
        self._pool: Pool | None = None
        self._found: Inspection | None = None
        self._vector_schema: str | None = None
        self._exact: OrderedDict[str, tuple[bool, float]] = OrderedDict()

    async def search(self, query: Query, /) -> Sequence[Passage]:
        """The tenant's passages, best first, in one statement and one round trip. See `Searcher.search`."""
        rows = await self._call(lambda connection: self._search(connection, query), stage="search")
        if rows and rows[0]["exact"] is not None and query.filter is None:
            self._remember(query.tenant, rows[0]["exact"])
        return [_passage(row) for row in rows]

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        """Put documents in place of those with the same ids, all of them in one transaction.

        Raises:
            ConfigurationError: vectors of another dimension than the store was made for.
        """
        if documents:
            await self._call(lambda connection: self._upsert(connection, documents, tenant), stage="write")
            self._exact.pop(tenant, None)

    async def hashes(self, document_ids: Sequence[str] | None, /, *, tenant: str) -> Mapping[str, str]:
        """Content hash by document id, for those that are there; None asks for all."""
        ids = None if document_ids is None else list(document_ids)
        rows = await self._fetch("hashes", tenant, ids, stage="search")
        return {row["id"]: row["content_hash"] for row in rows}

    async def delete(self, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """Remove documents with their chunks; how many there were."""

        async def work(connection: Connection) -> int:
            schema = await self._schema(connection)
            async with transaction(connection):
                await connection.execute(_statement("set_tenant", schema), tenant)
                status = await connection.execute(_statement("delete", schema), tenant, list(document_ids))
            return int(status.rpartition(" ")[2])

        deleted = await self._call(work, stage="write")
        self._exact.pop(tenant, None)
        return deleted

    async def count(self, *, tenant: str | None) -> Counts:
        """What a tenant has; None: the whole store's totals."""
        rows = await (
            self._fetch("count_all", stage="search") if tenant is None else self._fetch("count", tenant, stage="search")
        )
        return Counts(**dict(rows[0]))

    async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
        """The similarity of the tenant's chunks to `vector`, exact, best first."""
        rows = await self._fetch("scores", tenant, vector, limit, stage="search")
        return Scores(
            document_ids=[row["document_id"] for row in rows],
            chunk_ids=[row["id"] for row in rows],
            scores=np.array([row["score"] for row in rows], dtype=np.float32),
        )

    async def inspect(self) -> Inspection:
        """What the role finds in the database: for `doctor`, `describe` and health."""
        return await self._call(lambda connection: inspect(connection, self._address), stage="start")

    async def ping(self) -> None:
        """A real query through the pool and the policy; until extension and schema have been seen once, it looks for them.

        Raises:
            ConfigurationError: the extension or the schema is missing.
        """
        if self._found is None or not self._found.is_complete:
            self._found = await self.inspect()
            missing = [finding.message for finding in self._found.findings() if finding.severity == "error"]
            if not self._found.is_complete:
                raise ConfigurationError("; ".join(missing))
            return
        await self._call(lambda connection: connection.execute("select 1"), stage="search")

    def snapshot(self) -> Mapping[str, Any]:
        """Use of the pool, serialisable."""
        pool = self._pool
        return {"size": self.pool_size, "in_use": pool.in_use if pool else 0, "idle": pool.idle if pool else 0}

    def describe(self) -> Mapping[str, Any]:
        """Where the store is, without secrets."""
        address = self._address
        return {"host": address.host, "port": address.port, "database": address.database, "user": address.user}

    async def _open(self) -> None:
        owner = self._check_open()
        try:
            self._pool = Pool(self._address, size=self.pool_size, owner=owner)
            await self._pool.open()
        except (asyncpg.InterfaceError, OSError, ValueError) as error:
            raise translate(error, self._address, stage="start") from error
        self._found, self._looked = None, anyio.Event()
        owner.spawn(self._look, name="looking at the schema")

    async def _close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=2.0)

    async def first_look(self) -> Inspection | None:
        """What the role found in the database when the store was opened; None if the database could not be reached."""
        self._check_open()
        await self._looked.wait()
        return self._found

    async def _look(self) -> None:
        """Say early what would otherwise be found out late. By the policy's side: a look must not open its breaker."""
        pool = self._pool
        try:
            if pool is None:  # closed at once
                return
            with deadline(LOOK_SECONDS):
                async with pool.acquire() as connection:
                    self._found = await inspect(connection, self._address)
        except Exception as error:
            if self._pool is not None:  # closed at once: there is nothing to say
                logger.warning("the database is not ready: %s", translate(error, self._address, stage="start"))
        finally:
            self._looked.set()
        for finding in () if self._found is None else self._found.findings():
            logger.log(logging.ERROR if finding.severity == "error" else logging.WARNING, "%s", finding.message)

    async def _fetch(self, name: str, /, *values: Any, stage: str) -> list[asyncpg.Record]:
        async def work(connection: Connection) -> list[asyncpg.Record]:
            return await connection.fetch(_statement(name, await self._schema(connection)), *values)

        return await self._call(work, stage=stage)

    async def _call(self, work: Callable[[Connection], Awaitable[T]], *, stage: str) -> T:
        """Run `work` on a connection of the pool, through the policy; foreign errors come out as ours."""
        self._check_open()
        pool = self._pool
        assert pool is not None
        attempts = 0

        async def attempt() -> T:
            nonlocal attempts
            attempts += 1
            async with pool.acquire() as connection:
                return await work(connection)

        try:
            return await self.policy.call(attempt, on=judge)
        except Exception as error:
            ours = translate(error, self._address, stage=stage, attempts=attempts)
            if ours is error:
                raise
            raise ours from error

    async def _search(self, connection: Connection, query: Query) -> list[asyncpg.Record]:
        if query.mode == "text":
            values: list[Any] = [query.tenant, query.question]
        else:
            if query.vector is None:
                raise InvalidInput(f"mode {query.mode!r} needs a vector")
            values = [
                query.tenant,
                str(max(self.ef_search, min(query.top_k, 1_000))),
                self._exactly(query),
                EXACT_NUMBERS // len(query.vector) if self.exact_rows is None else self.exact_rows,
                query.vector,
                query.score_threshold,
            ]
            if query.mode == "hybrid":
                values.append(query.question)
        conditions = Conditions(query.filter, taken=len(values))
        dimension = 0 if query.vector is None else len(query.vector)
        half = dimension if MOST_INDEXED_WHOLE < dimension <= MOST_INDEXED else 0
        sql = _statement(
            query.mode,
            await self._schema(connection),
            conditions.sql,
            top_k=query.top_k,
            half=half,
            large=dimension >= LARGE,
        )
        return await connection.fetch(sql, *values, *conditions.values)

    async def _upsert(self, connection: Connection, documents: Sequence[EmbeddedDocument], tenant: str) -> None:
        schema = await self._schema(connection)
        ids = [embedded.document.id for embedded in documents]
        hashes = [embedded.content_hash for embedded in documents]
        models = [embedded.model for embedded in documents]
        async with transaction(connection):
            await connection.execute(_statement("set_tenant", schema), tenant)
            await connection.execute(_statement("upsert_documents", schema), tenant, ids, hashes, models)
            await connection.execute(_statement("delete_chunks", schema), tenant, ids)
            await connection.execute(_statement("incoming", schema))
            await connection.copy_records_to_table(
                "ragcore_incoming", schema_name="pg_temp", records=_records(documents), columns=CHUNK_COLUMNS
            )
            await connection.execute(_statement("insert_chunks", schema), tenant)

    async def _schema(self, connection: Connection) -> str:
        if self._vector_schema is None:
            self._vector_schema = await vector_schema(connection)
        return self._vector_schema

    def _exactly(self, query: Query) -> bool | None:
        """Whether to search exactly; None: let the statement count."""
        if query.vector is not None and len(query.vector) > MOST_INDEXED:
            return True
        return self._remembered(query.tenant) if query.filter is None else None

    def _remembered(self, tenant: str) -> bool | None:
        known = self._exact.get(tenant)
        if known is None or known[1] < anyio.current_time():
            return None
        return known[0]

    def _remember(self, tenant: str, exact: bool) -> None:
        if self._remembered(tenant) is None:
            self._exact[tenant] = (exact, anyio.current_time() + REMEMBER_SECONDS)
            self._exact.move_to_end(tenant)
            while len(self._exact) > REMEMBER_TENANTS:
                self._exact.popitem(last=False)


@lru_cache(maxsize=256)
def _statement(
    name: str, vector_schema: str, conditions: str = "", *, top_k: int = 0, half: int = 0, large: bool = False
) -> str:
    text = SQL[name]
    for word, value in (
        # Written out: of a parameter the planner, making one plan for all values, would think that a tenth of the rows is wanted.
        ("{top_k}", str(int(top_k))),
        # Half precision may confuse neighbours, whole precision then ranks them.
        ("{fetched}", str(2 * int(top_k) if half else int(top_k))),
        ("{candidates}", str(max(4 * int(top_k), 40))),
        ("{own}", OWN_LARGE if large else OWN),
        ("{indexed}", HALF.replace("{dimension}", str(half)) if half else WHOLE),
        ("{vector}", quoted(vector_schema)),
        ("{rank_constant}", str(RANK_CONSTANT)),
        ("{filter}", conditions),
    ):
        text = text.replace(word, value)
    return text


def _records(documents: Sequence[EmbeddedDocument]) -> list[tuple[Any, ...]]:
    return [
        (
            chunk.id,
            embedded.document.id,
            position,
            chunk.text,
            embedded.document.title,
            embedded.document.source,
            chunk.start,
            chunk.end,
            json.dumps({**embedded.document.metadata, **chunk.metadata}, ensure_ascii=False),
            vector,
        )
        for embedded in documents
        for position, (chunk, vector) in enumerate(zip(embedded.chunks, embedded.vectors, strict=True))
    ]


def _passage(row: asyncpg.Record) -> Passage:
    return Passage(
        row["id"],
        row["document_id"],
        row["text"],
        title=row["title"],
        source=row["source"],
        start=row["start_char"],
        end=row["end_char"],
        metadata=json.loads(row["metadata"]),
        score=row["score"],
        text_score=row["text_score"],
    )

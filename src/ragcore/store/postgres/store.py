"""PostgreSQL with pgvector as a store: one statement a search, tenants isolated by row-level security."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, TypeVar, cast

import anyio
import asyncpg
import numpy as np

from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.lifecycle.part import Part
from ragcore.protocols import Allowance, Diagnosis, EmbeddedDocument, Found, Ledger, Limits, Query, Scores, Vector
from ragcore.resilience import Bulkhead, Policy, RetryPolicy, deadline
from ragcore.store.postgres.conditions import Conditions
from ragcore.store.postgres.connection import PooledConnection, transaction
from ragcore.store.postgres.dsn import parse
from ragcore.store.postgres.extension import encode_vector
from ragcore.store.postgres.inspection import MOST_INDEXED, Inspection, inspect
from ragcore.store.postgres.pool import ConnectionLost, Pool
from ragcore.store.postgres.recent import Recent
from ragcore.store.postgres.searches import Search
from ragcore.store.postgres.statements import SQL, check_schema, quoted, statement
from ragcore.store.postgres.translate import cause_of, judge, translate
from ragcore.types import Counts, EmbedText, Passage
from ragcore.types.secret import Secret
from ragcore.types.validation import check_tenant

__all__ = ["PgVectorStore"]

logger = logging.getLogger("ragcore.store")

T = TypeVar("T")
Scan = Literal["exact", "index", "completed"]

# Rows times dimensions: up to here an exact scan of a tenant's rows takes some 10 ms, which finding everything is worth; the index takes 1 to 2.
EXACT_NUMBERS = 2_000_000
# How long a tenant counts as small or large, and for how many tenants that is remembered.
REMEMBER_SECONDS = 60.0
REMEMBER_TENANTS = 10_000
LOOK_SECONDS = 10.0
# Chunks in one statement of a write: some MB, whatever the document.
SLICE = 500


class PgVectorStore(Part):
    """Chunks in PostgreSQL, found by pgvector, full text, or both.

    Args:
        dsn: postgresql://user:password@host:port/database, also with several hosts; with `?pgbouncer=true` behind a pooler in transaction mode. The
            role should own nothing (`store.migrate` gives it what it needs).
        pool_size: connections at most, opened when needed.
        exact_rows: a tenant with at most as many chunks is searched exactly; a larger one through the HNSW index. None: as many as hold 2 million
            numbers, which is 5,208 chunks of 384 dimensions, 1,302 of 1,536.
        ef_search: how widely the index is searched, 1 to 1,000; more finds more and takes longer.
        schema: the collection, as `store.migrate` made it.
        allow_unsafe_role: whether to work with a role that row-level security doesn't bind. False: each call is refused.
        policy: of searches. None: as many calls at once as connections, 4 attempts, a breaker.
        write_policy: of writes. None: half as many at once as connections, no limit but the deadline, 4 attempts, a breaker of its own.

    `start` makes no connection, so it returns at once also while the database is down. It looks at the role and the schema in the
    background and logs what is wrong. Runs on asyncio (asyncpg does).

    Raises:
        ConfigurationError: the DSN is not one; or later, when first used: wrong password, no such database, no pgvector, no schema, no right, a role
            that row-level security doesn't bind, an embedder of another model than the collection's.
        StoreError: PostgreSQL can't be reached or failed.
    """

    def __init__(
        self,
        dsn: str | Secret,
        *,
        pool_size: int = 10,
        exact_rows: int | None = None,
        ef_search: int = 100,
        schema: str = "ragcore",
        allow_unsafe_role: bool = False,
        policy: Policy | None = None,
        write_policy: Policy | None = None,
    ) -> None:
        if pool_size < 1:
            raise ConfigurationError(f"pool_size is {pool_size}: it must be at least 1")
        if not 1 <= ef_search <= 1_000:
            raise ConfigurationError(f"ef_search is {ef_search}: pgvector takes 1 to 1,000")
        if exact_rows is not None and exact_rows < 0:
            raise ConfigurationError(f"exact_rows is {exact_rows}: it must be at least 0")
        self._address = parse(dsn)
        self.pool_size = pool_size
        self.exact_rows = exact_rows
        self.ef_search = ef_search
        self.schema = check_schema(schema)
        self.allow_unsafe_role = allow_unsafe_role
        # As many may queue as at the other dependencies: whether their time suffices, the bulkhead knows.
        queue = max(256, 16 * pool_size)
        retry = RetryPolicy(attempts=4, backoff=0.05, max_backoff=1.0)
        self.policy = policy or Policy(
            "database", attempt_timeout=10.0, bulkhead=Bulkhead(pool_size, queue=queue), retry=retry
        )
        # A large document takes minutes to write: its deadline bounds that, a timeout is not retried, and it says nothing about searches.
        self.write_policy = write_policy or Policy(
            "database writes",
            timeout=600.0,
            attempt_timeout=86_400.0,
            bulkhead=Bulkhead(max(1, pool_size // 2), queue=queue),
            retry=retry,
        )
        self._pool: Pool | None = None
        self._found: Inspection | None = None
        # Whether a tenant is searched exactly, whether it has what has expired, and about how many chunks it has.
        self._exact: Recent[bool] = Recent(seconds=REMEMBER_SECONDS, most=REMEMBER_TENANTS)
        self._hidden: Recent[bool] = Recent(seconds=REMEMBER_SECONDS, most=REMEMBER_TENANTS)
        self._sizes: Recent[float] = Recent(seconds=REMEMBER_SECONDS, most=REMEMBER_TENANTS)

    async def search(self, query: Query, /) -> Sequence[Passage]:
        """The tenant's passages, best first, in one statement and one round trip. See `Searcher.search`."""
        check_tenant(query.tenant)
        if query.mode != "text" and query.vector is None:
            raise InvalidInput(f"mode {query.mode!r} needs a vector")
        exactly, size = self._exactly(query), self._sizes.get(query.tenant)

        async def work(connection: PooledConnection) -> list[asyncpg.Record]:
            self._check_model(query.model)
            hidden = query.mode != "vector" and query.filter is None and await self._hides(connection, query.tenant)
            sql, values = self._search(connection, query, exactly, size, hidden=hidden)
            return await connection.fetch(sql, *values)

        rows = await self._call(work, stage="search")
        found = _nearest(rows, query) if query.mode == "vector" else _ranked(rows)
        if exactly is None and found.scan is not None and query.filter is None:
            self._exact.put(query.tenant, found.scan == "exact")
        if size is None and query.mode != "vector" and rows and rows[0]["chunks"] is not None:
            self._sizes.put(query.tenant, rows[0]["chunks"])
        return found

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        """Put documents in place of those with the same ids, all of them in one transaction: readers see the old ones whole until the new ones are.

        Raises:
            ConfigurationError: vectors of another model or dimension than the collection's.
        """
        check_tenant(tenant)
        if documents:
            await self._call(
                lambda connection: self._upsert(connection, documents, tenant), stage="write", policy=self.write_policy
            )
            self._forget(tenant)

    async def hashes(self, document_ids: Sequence[str] | None, /, *, tenant: str) -> Mapping[str, str]:
        """Content hash by document id, for those that are there; None asks for all."""
        check_tenant(tenant)
        ids = None if document_ids is None else list(document_ids)
        rows = await self._fetch("hashes", tenant, ids, stage="search")
        return {row["id"]: row["content_hash"] for row in rows}

    @property
    def former_models(self) -> Sequence[str]:
        """Models whose content hashes stand for unchanged documents as well: of collections that this one was embedded from. Known after a first call."""
        return () if self._found is None else self._found.former_models

    async def recorded_embed_text(self) -> EmbedText | None:
        """What is embedded for a chunk, as the collection records it."""
        rows = await self._fetch("recorded_embed_text", stage="write")
        return cast("EmbedText", rows[0]["value"]) if rows else None

    async def record_embed_text(self, embed_text: EmbedText, /) -> EmbedText | None:
        """Record what is embedded for a chunk from now on; return what was recorded before."""
        rows = await self._fetch("record_embed_text", embed_text, stage="write")
        return cast("EmbedText | None", rows[0]["former"])

    async def delete(self, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """Remove documents with their chunks; how many there were."""
        # Of all attempts: where the answer to a COMMIT is lost, the next attempt finds nothing more to delete.
        check_tenant(tenant)
        deleted: set[str] = set()

        async def work(connection: PooledConnection) -> None:
            async with transaction(connection):
                await connection.execute(SQL["set_tenant"], tenant)
                rows = await connection.fetch(self._statement("delete", connection), tenant, list(document_ids))
                deleted.update(row["id"] for row in rows)

        await self._call(work, stage="write", policy=self.write_policy)
        self._forget(tenant)
        return len(deleted)

    async def expire(self, *, limit: int = 1_000) -> Mapping[str, int]:
        """Remove documents that have expired, of all tenants, at most `limit` at once; how many, by tenant. Nobody could find them any more."""
        rows = await self._fetch("remove_expired", limit, stage="write", policy=self.write_policy)
        for row in rows:
            self._forget(row["tenant"])
        if not rows:  # the last time: what is old besides
            while (await self._fetch("remove_old_quotas", limit, stage="write", policy=self.write_policy))[0][
                "removed"
            ]:
                pass
        return {row["tenant"]: row["documents"] for row in rows}

    async def count_calls(
        self, ledger: Ledger, limits: Limits, /, *, tenant: str, call: str | None = None, seconds: float = 0.0
    ) -> Allowance:
        """Count what a process has used, and let another call in. See `QuotaStore`."""
        check_tenant(tenant)
        rows = await self._fetch(
            "count_calls",
            tenant,
            ledger.name,
            ledger.tokens,
            ledger.cost,
            list(ledger.finished),
            call,
            seconds,
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.calls_at_once,
            limits.spending_per_day,
            stage="admit",
        )
        return Allowance(**dict(rows[0]))

    async def count(self, *, tenant: str | None) -> Counts:
        """What a tenant has; None: the whole store's totals."""
        if tenant is not None:
            check_tenant(tenant)
        rows = await (
            self._fetch("count_all", stage="search") if tenant is None else self._fetch("count", tenant, stage="search")
        )
        return Counts(**dict(rows[0]))

    async def diagnose(self, query: Query, /) -> Diagnosis:
        """What the tenant of a query has. Bypasses the policy: the search has succeeded, so this says nothing about the database."""

        async def work(connection: PooledConnection) -> Diagnosis:
            row = await connection.fetchrow(self._statement("diagnose", connection), query.tenant)
            assert row is not None
            everywhere = None
            if not row["chunks"]:
                everywhere = await connection.fetchval(
                    f"select chunks from ({self._statement('count_all', connection)}) as counted"  # noqa: S608  # a file of ours
                )
            return Diagnosis(
                chunks=row["chunks"],
                not_embedded=row["not_embedded"],
                models=row["models"] or (),
                store_chunks=everywhere,
            )

        return await self._opened().run(work)

    async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
        """The similarity of the tenant's chunks to `vector`, exact, best first."""
        check_tenant(tenant)
        rows = await self._fetch("scores", tenant, vector, limit, stage="search")
        return Scores(
            document_ids=rows[0]["document_ids"] or [],
            chunk_ids=rows[0]["ids"] or [],
            scores=np.array(rows[0]["scores"] or [], dtype=np.float32),
        )

    async def inspect(self) -> Inspection:
        """What the role finds in the database: for `doctor`, `describe` and health."""
        return await self._call(
            lambda connection: inspect(connection, self._address, schema=self.schema), stage="start", examine=False
        )

    async def ping(self) -> None:
        """A look at role and schema through the pool and the policy.

        Raises:
            ConfigurationError: the extension or the schema is missing, a right is, or the role is not safe.
        """
        self._found = found = await self.inspect()
        wrong = [finding.message for finding in found.findings() if finding.severity == "error"]
        if not found.is_complete:
            raise ConfigurationError("; ".join(wrong))
        self._refuse_if_unsafe()

    def snapshot(self) -> Mapping[str, Any]:
        """Use of the pool, serialisable."""
        pool = self._pool
        return {"size": self.pool_size, "in_use": pool.in_use if pool else 0, "idle": pool.idle if pool else 0}

    def describe(self) -> Mapping[str, Any]:
        """Where the store is, without secrets."""
        address = self._address
        return {
            "host": address.host,
            "port": address.port,
            "database": address.database,
            "user": address.user,
            "schema": self.schema,
        }

    async def _open(self) -> None:
        owner = self._check_open()
        self._pool = Pool(self._address, size=self.pool_size)
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
        """Check role and schema at start, bypassing the policy: its breaker must not open for that."""
        pool = self._pool
        try:
            if pool is None:  # closed at once
                return
            with deadline(LOOK_SECONDS):
                self._found = await pool.run(lambda connection: inspect(connection, self._address, schema=self.schema))
        except Exception as error:
            if self._pool is not None:  # closed at once: there is nothing to say
                logger.warning("the database is not ready: %s", translate(error, self._address, stage="start"))
        finally:
            self._looked.set()
        for finding in () if self._found is None else self._found.findings():
            logger.log(logging.ERROR if finding.severity == "error" else logging.WARNING, "%s", finding.message)

    async def _fetch(
        self, name: str, /, *values: Any, stage: str, policy: Policy | None = None
    ) -> list[asyncpg.Record]:
        async def work(connection: PooledConnection) -> list[asyncpg.Record]:
            return await connection.fetch(self._statement(name, connection), *values)

        return await self._call(work, stage=stage, policy=policy)

    def _statement(self, name: str, connection: PooledConnection) -> str:
        return statement(name, schema=quoted(self.schema), vector=quoted(connection.vector_schema))

    async def _call(
        self,
        work: Callable[[PooledConnection], Awaitable[T]],
        *,
        stage: str,
        policy: Policy | None = None,
        examine: bool = True,
    ) -> T:
        """Run `work` on a connection of the pool, through the policy; foreign errors come out as ours."""
        pool = self._opened()
        attempts = 0

        async def examined(connection: PooledConnection) -> T:
            if not connection.examined:
                self._found = found = await inspect(connection, self._address, schema=self.schema)
                # Where another collection of the group is in use, this one replaces it, or is refused.
                if found.active not in (None, self.schema):
                    await connection.execute(f"select {quoted(self.schema)}.use_collection()")
                connection.examined = True
            self._refuse_if_unsafe()
            return await work(connection)

        async def attempt() -> T:
            nonlocal attempts
            attempts += 1
            try:
                return await pool.run(examined if examine else work)
            except ConnectionLost as lost:
                if not lost.reused:
                    raise
            # As with HTTP's kept connections: that an idle one had ended says nothing, so a new one is tried at once.
            attempts += 1
            return await pool.run(examined if examine else work)

        try:
            return await (policy or self.policy).call(attempt, on=judge)
        except Exception as error:
            ours = translate(error, self._address, stage=stage, attempts=attempts)
            if ours is error:
                raise
            raise ours from cause_of(error)

    def _opened(self) -> Pool:
        self._check_open()
        assert self._pool is not None
        return self._pool

    def _refuse_if_unsafe(self) -> None:
        """A role that row-level security doesn't bind sees all tenants' rows."""
        found = self._found
        if found is not None and not self.allow_unsafe_role and found.unsafe:
            raise ConfigurationError(
                f"{'; '.join(found.unsafe)}. To work without isolation, pass allow_unsafe_role=True"
            )

    def _check_model(self, model: str | None) -> None:
        known = None if self._found is None else self._found.model
        if model is not None and known is not None and model != known:
            raise ConfigurationError(
                f"the collection {self.schema} holds vectors of {known}, and the embedder is {model}: use that model, or another collection"
            )

    async def _hides(self, connection: PooledConnection, tenant: str) -> bool:
        """Whether the tenant has expired documents that are still there."""
        known = self._hidden.get(tenant)
        if known is None:
            known = bool(await connection.fetchval(self._statement("has_expired", connection), tenant))
            self._hidden.put(tenant, known)
        return known

    def _search(
        self,
        connection: PooledConnection,
        query: Query,
        exactly: bool | None,
        size: float | None,
        *,
        hidden: bool = False,
    ) -> tuple[str, list[Any]]:
        """The statement of a query, and the values of its parameters.

        Args:
            hidden: whether chunks are there that nobody may find. They stand among the postings and would take the others' places there, so it is
                searched as with a filter.
        """
        values: list[Any] = [query.tenant]
        if query.mode != "text":
            values.append(query.vector)
        if query.mode != "vector":
            values.append(query.question)
        if query.mode == "hybrid":
            values.append(query.score_threshold)
        scans_text = self._found is None or not self._found.text_is_ready
        if query.mode != "vector":
            values.append(None if size is None else round(size))
        conditions = Conditions(query.filter, taken=len(values))
        dimension = 0 if query.vector is None else len(query.vector)
        search = Search(
            mode=query.mode,
            schema=self.schema,
            vector_schema=connection.vector_schema,
            top_k=query.top_k,
            dimension=dimension,
            exactly=exactly,
            exact_rows=EXACT_NUMBERS // max(dimension, 1) if self.exact_rows is None else self.exact_rows,
            ef_search=self.ef_search,
            scans_text=scans_text,
            filter=conditions.sql or ("and true" if hidden else ""),
        )
        sql = search.sql()
        return sql, [*values, *conditions.values]

    async def _upsert(self, connection: PooledConnection, documents: Sequence[EmbeddedDocument], tenant: str) -> None:
        for embedded in documents:
            self._check_model(embedded.model)
        ids = [embedded.document.id for embedded in documents]
        hashes = [embedded.content_hash for embedded in documents]
        models = [embedded.model for embedded in documents]
        expiries = [embedded.document.expires_at for embedded in documents]
        async with transaction(connection):
            await connection.execute(SQL["set_tenant"], tenant)
            await connection.execute(self._statement("begin_documents", connection), tenant, ids, models, expiries)
            await connection.execute(self._statement("delete_chunks", connection), tenant, ids)
            for columns in _slices(documents):
                await connection.execute(self._statement("insert_chunks", connection), tenant, *columns)
            await connection.execute(self._statement("finish_documents", connection), tenant, ids, hashes)

    def _exactly(self, query: Query) -> bool | None:
        """Whether to search exactly; None: let the statement count."""
        if query.vector is not None and len(query.vector) > MOST_INDEXED:
            return True
        return self._exact.get(query.tenant) if query.filter is None else None

    def _forget(self, tenant: str) -> None:
        self._exact.drop(tenant)
        self._hidden.drop(tenant)
        self._sizes.drop(tenant)


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


_read_json = json.JSONDecoder().raw_decode
# A frozen value's own constructor takes three times as long, and a search makes ten: a fifth of what it costs this process.
_set_field = {field.name: getattr(Passage, field.name).__set__ for field in fields(Passage)}
_set_first = [_set_field[name] for name in ("chunk_id", "document_id", "text", "title", "source", "start", "end")]
_set_metadata, _set_score, _set_text_score = (_set_field[name] for name in ("metadata", "score", "text_score"))


def _passage(row: asyncpg.Record, score: float | None, text_score: float | None) -> Passage:
    """A passage of the first eight columns of a row."""
    passage: Passage = object.__new__(Passage)
    for number, set_value in enumerate(_set_first):
        set_value(passage, row[number])
    metadata = row[7]
    _set_metadata(passage, {} if metadata == "{}" else _read_json(metadata)[0])
    _set_score(passage, score)
    _set_text_score(passage, text_score)
    return passage


def _nearest(rows: Sequence[asyncpg.Record], query: Query) -> Found:
    """The rows of a vector search, sorted, each chunk once, those over the threshold."""
    seen: dict[str, tuple[float, str, asyncpg.Record]] = {}
    scan: Scan | None = None
    for row in rows:
        distance, how = row[8], row[9]
        scan = how if scan is None or how == "completed" else scan
        if math.isfinite(distance):
            seen[row[0]] = (distance, row[0], row)
    ranked = sorted(seen.values(), key=lambda one: one[:2])
    threshold = -math.inf if query.score_threshold is None else query.score_threshold
    passages = [
        _passage(row, 1 - distance, None) for distance, _, row in ranked[: query.top_k] if 1 - distance >= threshold
    ]
    return Found(passages, best_score=1 - ranked[0][0] if ranked else None, scan=scan)


def _ranked(rows: Sequence[asyncpg.Record]) -> Found:
    """The rows of a search by text or both; one without a chunk says only what was learned."""
    passages = [_passage(row, row["score"], row["text_score"]) for row in rows if row["id"] is not None]
    if not rows:
        return Found(passages)
    return Found(passages, best_score=rows[0]["best_score"], scan=cast("Scan | None", rows[0]["scan"]))

"""PostgreSQL with pgvector as a store: one statement a search, tenants isolated by row-level security.

What is one statement stands here; `searching` and `writing` do what takes more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ragcore.errors import ConfigurationError
from ragcore.lifecycle.part import Part
from ragcore.protocols import Allowance, Diagnosis, EmbeddedDocument, Ledger, Limits, Query, Scores, Vector
from ragcore.resilience import Bulkhead, Policy, RetryPolicy
from ragcore.store.postgres.collection import Collection
from ragcore.store.postgres.dsn import parse
from ragcore.store.postgres.inspection import Inspection
from ragcore.store.postgres.searching import Searching
from ragcore.store.postgres.statements import check_schema
from ragcore.store.postgres.tenants import Tenants
from ragcore.store.postgres.writing import Writing
from ragcore.types import Counts, EmbedText, Passage
from ragcore.types.secret import Secret
from ragcore.types.validation import check_tenant

__all__ = ["PgVectorStore"]


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

    schema: str
    policy: Policy
    write_policy: Policy

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
        # The parts read the attributes above at each call, so that one which is changed holds from the next call on.
        tenants = Tenants()
        self._collection = Collection(self, check_open=self._check_open)
        self._searching = Searching(self, self._collection, tenants)
        self._writing = Writing(self, self._collection, tenants)

    async def search(self, query: Query, /) -> Sequence[Passage]:
        """The tenant's passages, best first, in one statement and one round trip. See `Searcher.search`."""
        return await self._searching.search(query)

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        """Put documents in place of those with the same ids, all of them in one transaction: readers see the old ones whole until the new ones are.

        Raises:
            ConfigurationError: vectors of another model or dimension than the collection's.
        """
        await self._writing.upsert(documents, tenant=tenant)

    async def hashes(self, document_ids: Sequence[str] | None, /, *, tenant: str) -> Mapping[str, str]:
        """Content hash by document id, for those that are there; None asks for all."""
        check_tenant(tenant)
        ids = None if document_ids is None else list(document_ids)
        rows = await self._collection.fetch("hashes", tenant, ids, stage="search")
        return {row["id"]: row["content_hash"] for row in rows}

    @property
    def former_models(self) -> Sequence[str]:
        """Models whose content hashes stand for unchanged documents as well: of collections that this one was embedded from. Known after a first call."""
        return self._collection.former_models

    async def recorded_embed_text(self) -> EmbedText | None:
        """What is embedded for a chunk, as the collection records it."""
        rows = await self._collection.fetch("recorded_embed_text", stage="write")
        return cast("EmbedText", rows[0]["value"]) if rows else None

    async def record_embed_text(self, embed_text: EmbedText, /) -> EmbedText | None:
        """Record what is embedded for a chunk from now on; return what was recorded before."""
        rows = await self._collection.fetch("record_embed_text", embed_text, stage="write")
        return cast("EmbedText | None", rows[0]["former"])

    async def delete(self, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """Remove documents with their chunks; how many there were."""
        return await self._writing.delete(document_ids, tenant=tenant)

    async def expire(self, *, limit: int = 1_000) -> Mapping[str, int]:
        """Remove documents that have expired, of all tenants, at most `limit` at once; how many, by tenant. Nobody could find them any more."""
        return await self._writing.expire(limit=limit)

    async def count_calls(
        self, ledger: Ledger, limits: Limits, /, *, tenant: str, call: str | None = None, seconds: float = 0.0
    ) -> Allowance:
        """Count what a process has used, and let another call in. See `QuotaStore`."""
        check_tenant(tenant)
        rows = await self._collection.fetch(
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
            self._collection.fetch("count_all", stage="search")
            if tenant is None
            else self._collection.fetch("count", tenant, stage="search")
        )
        return Counts(**dict(rows[0]))

    async def diagnose(self, query: Query, /) -> Diagnosis:
        """What the tenant of a query has. Bypasses the policy: the search has succeeded, so this says nothing about the database."""
        return await self._searching.diagnose(query)

    async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
        """The similarity of the tenant's chunks to `vector`, exact, best first."""
        return await self._searching.scores(vector, tenant=tenant, limit=limit)

    async def inspect(self) -> Inspection:
        """What the role finds in the database: for `doctor`, `describe` and health."""
        return await self._collection.inspect()

    async def ping(self) -> None:
        """A look at role and schema through the pool and the policy.

        Raises:
            ConfigurationError: the extension or the schema is missing, a right is, or the role is not safe.
        """
        await self._collection.ping()

    def snapshot(self) -> Mapping[str, Any]:
        """Use of the pool, serialisable."""
        return self._collection.snapshot()

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

    async def first_look(self) -> Inspection | None:
        """What the role found in the database when the store was opened; None if the database could not be reached."""
        return await self._collection.first_look()

    async def _open(self) -> None:
        self._collection.open(self._address)

    async def _close(self) -> None:
        await self._collection.close()

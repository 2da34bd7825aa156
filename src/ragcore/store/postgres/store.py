"""A store in PostgreSQL with pgvector. Each search is one statement; row-level security isolates the tenants.

Methods that need one statement are implemented here, the others in `searching`, `writing`, `recall` and `rollouts`. It is one file, because the class is the
public face of the store: most of its lines document the methods.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

from ragcore.errors import ConfigurationError
from ragcore.lifecycle.part import Part
from ragcore.protocols import (
    Allowance,
    Diagnosis,
    EmbeddedDocument,
    Found,
    Ledger,
    Limits,
    Query,
    RolloutRecord,
    Scores,
    Vector,
)
from ragcore.resilience import Policy
from ragcore.store.postgres.cached_vectors import CachedVectors
from ragcore.store.postgres.collection import Collection
from ragcore.store.postgres.dsn import Address, parse, parse_each
from ragcore.store.postgres.explanation import Explanation
from ragcore.store.postgres.inspection import Inspection
from ragcore.store.postgres.origins import Origins
from ragcore.store.postgres.policies import queue_of, search_policy, writing_policy
from ragcore.store.postgres.recall import CollectionSearched, Recall, measure
from ragcore.store.postgres.replica import replica_policy
from ragcore.store.postgres.rollouts import Rollouts
from ragcore.store.postgres.searching import Searching
from ragcore.store.postgres.statements import check_schema
from ragcore.store.postgres.tenants import Tenants
from ragcore.store.postgres.writing import Writing
from ragcore.types import Counts, EmbedText, Origin, Passage, RolloutState
from ragcore.types.secret import Secret
from ragcore.types.validation import check_tenant

__all__ = ["PgVectorStore"]


class PgVectorStore(Part):
    """Stores chunks in PostgreSQL and finds them with pgvector, full-text search, or both.

    Args:
        dsn: postgresql://user:password@host:port/database, of the primary. Several hosts are allowed; with `?target_session_attrs=primary`, the driver
            finds the primary among them, also after a failover. Behind a pooler in transaction mode, add `?pgbouncer=true`.
            The role should own nothing; `store.migrate` grants it the rights that it needs.
        pool_size: largest number of connections. They are opened when needed.
        exact_rows: a tenant with at most this number of chunks is searched exactly, a larger one through the HNSW index. None: the number of chunks
            whose vectors hold 2 million numbers, such as 5,208 chunks of 384 dimensions or 1,302 of 1,536.
        ef_search: breadth of the index search, 1 to 1,000. A larger value finds more of the nearest chunks and takes longer. In an index of the kind
            "binary", it is also the least number of candidates that are compared by their whole vectors; at least 20 × top_k are.
        schema: name of the collection's schema, as given to `store.migrate`.
        allow_unsafe_role: whether to work with a role to which row-level security does not apply. False: each call is refused.
        policy: policy of searches. None: at most `pool_size` searches at once, 4 attempts, a circuit breaker.
        write_policy: policy of writes. None: at most half of `pool_size` writes at once, 4 attempts without an attempt timeout, its own circuit
            breaker.
        read_dsn: DSN of a read replica, or of several: each host of each DSN is one replica, with its own pool of `pool_size` connections and its own
            circuit breaker. Searches go to the least busy replica, and to the primary if none answers. None: the primary answers all reads.
        read_your_writes: after a write of this store, reads of the same tenant go only to servers that have it, for at most this many seconds. 0: a read
            may miss a write until its replica has replayed it. Without `read_dsn`, it has no effect.

    `start` opens no connection, so it returns immediately even while the database is down. The store checks the role and the schema in the background
    and logs each problem. It runs on asyncio only, because asyncpg does.

    Raises:
        ConfigurationError: a DSN is invalid, or `read_dsn` names a server twice. At first use: the password is wrong; the database, pgvector, the schema
            or a right is missing; row-level security does not apply to the role; or the embedder's model is not the collection's.
        StoreError: PostgreSQL can't be reached, or it failed.
    """

    schema: str
    policy: Policy
    write_policy: Policy
    read_policies: Mapping[str, Policy]
    read_your_writes: float

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
        read_dsn: str | Secret | Sequence[str | Secret] | None = None,
        read_your_writes: float = 30.0,
    ) -> None:
        if pool_size < 1:
            raise ConfigurationError(f"pool_size is {pool_size}: it must be at least 1")
        if not 1 <= ef_search <= 1_000:
            raise ConfigurationError(f"ef_search is {ef_search}: it must be from 1 to 1,000, as pgvector requires")
        if exact_rows is not None and exact_rows < 0:
            raise ConfigurationError(f"exact_rows is {exact_rows}: it must be at least 0")
        if not 0 <= read_your_writes < math.inf:
            raise ConfigurationError(
                f"read_your_writes is {read_your_writes}: it must be a finite number of seconds, or 0 to switch it off"
            )
        self._address = parse(dsn)
        self._replicas = _replicas(read_dsn)
        self.pool_size = pool_size
        self.exact_rows = exact_rows
        self.ef_search = ef_search
        self.schema = check_schema(schema)
        self.allow_unsafe_role = allow_unsafe_role
        self.policy = policy or search_policy(pool_size)
        self.write_policy = write_policy or writing_policy(pool_size)
        # By the replica's address.
        self.read_policies = {
            str(address): replica_policy(address, pool_size=pool_size, queue=queue_of(pool_size))
            for address in self._replicas
        }
        self.read_your_writes = read_your_writes
        # The parts read the attributes above at each call, so a changed attribute takes effect with the next call.
        tenants = Tenants()
        self._collection = Collection(self, check_open=self._check_open)
        self._searching = Searching(self, self._collection, tenants)
        self._writing = Writing(self, self._collection, tenants)
        self._rollouts = Rollouts(self._collection)
        self._cached_vectors = CachedVectors(self, self._collection)
        self._origins = Origins(self._collection, tenants)

    async def search(self, query: Query, /) -> Sequence[Passage]:
        """Return the tenant's passages, best first, in one statement and one round trip. See `Searcher.search`."""
        return await self._searching.search(query)

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        """Add documents, or replace those with the same ids, in one transaction. Searches see the old documents until all new ones are written.

        Of several documents with the same id, the last one is stored.

        Raises:
            ConfigurationError: the vectors have another model or dimension than the collection.
        """
        await self._writing.upsert(documents, tenant=tenant)

    async def hashes(self, document_ids: Sequence[str] | None, /, *, tenant: str) -> Mapping[str, str]:
        """Return content hashes by document id, for those of the ids that are stored; None asks for all documents."""
        check_tenant(tenant)
        ids = None if document_ids is None else list(document_ids)
        rows = await self._collection.fetch("hashes", tenant, ids, stage="search")
        return {row["id"]: row["content_hash"] for row in rows}

    @property
    def former_models(self) -> Sequence[str]:
        """Former models of this collection, before it was embedded again. Content hashes of these models also mark documents as unchanged.

        Known after the first call.
        """
        return self._collection.former_models

    async def recorded_embed_text(self) -> EmbedText | None:
        """Return the recorded choice of the text to embed for a chunk; None if nothing is recorded."""
        rows = await self._collection.fetch("recorded_embed_text", stage="write")
        return cast("EmbedText", rows[0]["value"]) if rows else None

    async def record_embed_text(self, embed_text: EmbedText, /) -> EmbedText | None:
        """Record the choice of the text to embed for a chunk from now on; return the former one."""
        rows = await self._collection.fetch("record_embed_text", embed_text, stage="write")
        return cast("EmbedText | None", rows[0]["former"])

    async def delete(self, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """Remove documents with their chunks; return how many documents were removed."""
        return await self._writing.delete(document_ids, tenant=tenant)

    async def origins(self, document_ids: Sequence[str], /, *, tenant: str) -> Mapping[str, Origin]:
        """Return the recorded origin of each of these documents that has one. See `OriginStore`."""
        return await self._origins.of(document_ids, tenant=check_tenant(tenant))

    async def record_origins(self, origins: Mapping[str, Origin], /, *, tenant: str) -> None:
        """Record the origins of stored documents. See `OriginStore`."""
        await self._origins.record(origins, tenant=check_tenant(tenant))

    async def documents_of(
        self, source: str, /, *, tenant: str, after: str = "", limit: int = 1_000
    ) -> Mapping[str, Origin]:
        """Return the next documents that are recorded for a source, sorted by id. See `OriginStore`."""
        return await self._origins.documents_of(source, tenant=check_tenant(tenant), after=after, limit=limit)

    async def documents_of_entries(
        self, source: str, entries: Sequence[str], /, *, tenant: str
    ) -> Mapping[str, Origin]:
        """Return the documents that are recorded for these entries of a source. See `OriginStore`."""
        return await self._origins.documents_of_entries(source, entries, tenant=check_tenant(tenant))

    async def count_of(self, source: str, /, *, tenant: str) -> int:
        """Return the number of documents that are recorded for a source."""
        return await self._origins.count_of(source, tenant=check_tenant(tenant))

    async def delete_of(self, source: str, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """Delete those of the documents that are still recorded for the source; return their number."""
        return await self._origins.delete_of(source, document_ids, tenant=check_tenant(tenant))

    def lock_sources(
        self, sources: Sequence[str], /, *, tenant: str
    ) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        """Hold an advisory lock for each source during a block, on a connection outside of the pool. See `OriginStore`."""
        self._check_open()
        return self._origins.locked(self._address, self.schema, sources, tenant=check_tenant(tenant))

    async def expire(self, *, limit: int = 1_000) -> Mapping[str, int]:
        """Remove expired documents of all tenants, at most `limit`; return how many were removed, by tenant. Searches don't find them even before that."""
        return await self._writing.expire(limit=limit)

    async def count_calls(
        self, ledger: Ledger, limits: Limits, /, *, tenant: str, call: str | None = None, seconds: float = 0.0
    ) -> Allowance:
        """Record the use of a process, and decide whether another call may start. See `QuotaStore`."""
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

    async def rollouts(self) -> Sequence[RolloutRecord]:
        """Return all rollouts, in the order of their names."""
        return await self._rollouts.all()

    async def report_rollout(
        self, begun: RolloutState, /, *, ledger: str, version: int, evidence: Mapping[str, Any]
    ) -> RolloutRecord:
        """Record the evidence of a process, and return what is stored. See `RolloutStore`."""
        return await self._rollouts.report(begun, ledger=ledger, version=version, evidence=evidence)

    async def change_rollout(self, changed: RolloutState, /, *, evidence: Mapping[str, Mapping[str, Any]]) -> bool:
        """Change the state of a rollout, if no other process was faster. See `RolloutStore`."""
        return await self._rollouts.change(changed, evidence=evidence)

    async def count(self, *, tenant: str | None) -> Counts:
        """Return the numbers of documents and chunks of a tenant; None: of the whole store."""
        if tenant is not None:
            check_tenant(tenant)
        rows = await (
            self._collection.fetch("count_all", stage="search")
            if tenant is None
            else self._collection.fetch("count", tenant, stage="search")
        )
        return Counts(**dict(rows[0]))

    async def diagnose(self, query: Query, /) -> Diagnosis:
        """Return the number of the tenant's chunks and the models of their vectors.

        Bypasses the policy: the search has succeeded, so an error here must not count as a failure of the database.
        """
        return await self._searching.diagnose(query)

    async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
        """Return the exact similarity of the tenant's chunks to `vector`, best first."""
        return await self._searching.scores(vector, tenant=tenant, limit=limit)

    async def shared_tenants(self) -> Sequence[str]:
        """Return the tenants that the owner has marked as shared, with `store.share`."""
        return await self._searching.shared_tenants()

    async def adjacent(
        self, passages: Sequence[Passage], /, *, tenant: str, distance: int
    ) -> Sequence[Sequence[Passage]]:
        """Return the chunks around each passage. See `AdjacentChunks`."""
        return await self._searching.adjacent(passages, tenant=tenant, distance=distance)

    async def document_chunks(self, document_id: str, /, *, tenant: str, with_vectors: bool = False) -> Found:
        """Return all chunks of a document in the order of its text. See `ChunkReader`."""
        return await self._searching.document_chunks(document_id, tenant=tenant, with_vectors=with_vectors)

    async def chunks_by_id(self, chunk_ids: Sequence[str], /, *, tenant: str, with_vectors: bool = False) -> Found:
        """Return the chunks with these ids. See `ChunkReader`."""
        return await self._searching.chunks_by_id(chunk_ids, tenant=tenant, with_vectors=with_vectors)

    async def cached_vectors(self, keys: Sequence[bytes], /, *, tenant: str) -> Mapping[bytes, Vector]:
        """Return vectors of a tenant's questions that processes have stored, by key. See `VectorCache`."""
        return await self._cached_vectors.find(keys, tenant=tenant)

    async def cache_vectors(self, vectors: Mapping[bytes, Vector], /, *, tenant: str, seconds: float) -> None:
        """Store vectors of a tenant's questions for all processes. See `VectorCache`."""
        await self._cached_vectors.keep(vectors, tenant=tenant, seconds=seconds)

    async def trim_cached_vectors(self, *, most: int | None, at_once: int) -> int:
        """Remove expired vectors of questions, and further ones if there are too many. See `VectorCache`."""
        return await self._cached_vectors.trim(most=most, at_once=at_once)

    async def clear_cached_vectors(self, *, tenant: str) -> int:
        """Remove the vectors of a tenant's questions and return their number."""
        return await self._cached_vectors.clear(tenant=tenant)

    async def explain(self, query: Query, /) -> Explanation:
        """Run a search and return how PostgreSQL runs it: the index, exact or index scan, the rows that were read and dropped, and the time.

        The explanation contains no texts, no values and no tenants. The search runs twice: once as `search` does, and once with EXPLAIN ANALYZE.

        Raises:
            InvalidInput: the query has no vector, and its mode is not "text".

        Examples:
            ```python
            query = Query(question="What is my deductible?", tenant="acme", mode="vector", top_k=10, vector=vector)
            print(await store.explain(query))
            # The search walks through the index of the kind halfvec. It reads 100 rows and drops 0 of other tenants …
            ```
        """
        return await self._searching.explain(query)

    async def measure_recall(
        self,
        *,
        sample: int = 200,
        tenant: str | None = None,
        top_k: int = 10,
        seconds: float = 60.0,
        vectors: Sequence[Vector] | None = None,
    ) -> Recall:
        """Measure the recall of the index: search for random stored vectors, as `search` does and exactly, and compare what both find.

        Each search runs as the tenant to which the sampled chunk belongs, under row-level security, and does not count the chunk itself. The searches run one
        after another on one connection, beside other calls, and bypass the policy. Memory is bounded by `top_k`.

        A question is usually farther away from the chunks than another chunk is, so its recall may be a little lower. To measure with questions, give their
        embeddings.

        Args:
            sample: largest number of searches to compare, 1 to 10,000.
            tenant: the tenant whose chunks are sampled. None: random chunks of all tenants, so that large tenants count more.
            top_k: number of chunks that each search asks for, 1 to 100.
            seconds: time limit of the measurement. If it ends early, the result has fewer samples.
            vectors: vectors to search for instead of stored ones, such as those of real questions. Needs `tenant`.

        Raises:
            InvalidInput: an argument is out of range.
            StoreError: PostgreSQL can't be reached, or it failed.

        Examples:
            ```python
            measured = await store.measure_recall(sample=200)
            print(f"recall@10 {measured.recall:.3f}; {measured.index_ms:.1f} ms instead of {measured.exact_ms:.1f} ms")
            ```
        """
        searched = CollectionSearched(self, self._collection)
        return await measure(
            searched, self._address, sample=sample, tenant=tenant, top_k=top_k, seconds=seconds, vectors=vectors
        )

    async def inspect(self) -> Inspection:
        """Inspect the role, the schema and the server, and each replica, for `doctor` and `describe`."""
        return await self._collection.inspect()

    async def ping(self) -> None:
        """Check the role and the schema on the primary, through the pool and the policy.

        Raises:
            ConfigurationError: the extension, the schema or a right is missing, or the role is unsafe.
        """
        await self._collection.ping()

    @property
    def replicas(self) -> Sequence[str]:
        """Addresses of the replicas, without secrets; empty without `read_dsn`."""
        return tuple(self.read_policies)

    async def ping_replicas(self) -> Mapping[str, str | None]:
        """Check each replica through its pool and its policy; return the error by address, None for a replica that works."""
        return await self._collection.ping_replicas()

    def snapshot(self) -> Mapping[str, Any]:
        """Return the use of the pools as serialisable data, and the state of each replica's breaker."""
        return self._collection.snapshot()

    @property
    def server(self) -> tuple[str, int | None]:
        """The host and the port of the database; several hosts as one text, without a port."""
        address = self._address
        return address.host or "localhost", address.port

    def describe(self) -> Mapping[str, Any]:
        """Return the address and the schema of the store, without secrets."""
        address = self._address
        return {
            "host": address.host,
            "port": address.port,
            "database": address.database,
            "user": address.user,
            "schema": self.schema,
            **({"replicas": list(self.replicas)} if self.replicas else {}),
        }

    async def first_look(self) -> Inspection | None:
        """Wait for the check at start and return its result; None if neither the primary nor a replica could be reached."""
        return await self._collection.first_look()

    async def _open(self) -> None:
        self._collection.open(self._address, self._replicas)

    async def _close(self) -> None:
        await self._collection.close()


def _replicas(read_dsn: str | Secret | Sequence[str | Secret] | None) -> list[Address]:
    """Return the address of each replica."""
    given = [] if read_dsn is None else [read_dsn] if isinstance(read_dsn, str | Secret) else read_dsn
    found = [address for dsn in given for address in parse_each(dsn)]
    names = [str(address) for address in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"read_dsn names the replica {name} more than once: name it once")
    return found

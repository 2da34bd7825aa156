"""Measure the recall of the index: searches for stored vectors through the index, compared with exact searches."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import asyncpg
import numpy as np

from ragcore.errors import DeadlineExceeded, InvalidInput
from ragcore.protocols import Query, Vector
from ragcore.resilience import deadline
from ragcore.store.postgres.collection import Collection, StoreSettings, search_statement
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.dsn import Address
from ragcore.store.postgres.translate import cause_of, translate
from ragcore.types.validation import check_tenant
from ragcore.value import Value

__all__ = ["CollectionSearched", "Recall", "Searched", "measure"]

MOST_SAMPLES = 10_000
# The largest number of passages of one search, which bounds the memory of a measurement.
MOST_TOP_K = 100
# Two chunks whose distances differ by less than this are equally near. The index computes the distance in another order than the exact search.
SAME_DISTANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall(Value):
    """The measured recall of the index.

    Attributes:
        recall: share of the `top_k` nearest chunks that the search finds, as a mean over the samples, 0 to 1. An exact search counts as 1. None: nothing was
            measured.
        top_k: number of chunks that each search asks for.
        samples: number of searches that were compared.
        exact: number of them that are exact, because their tenant is small or the collection has no index.
        indexed_recall: the mean over the searches that used the index; None if there were none.
        by_tenant: the mean recall of each sampled tenant.
        index_ms, exact_ms: median time of a search through the index, and of the same search without it, in milliseconds; None if none used the index.
        complete: whether all samples were compared within the time.
    """

    recall: float | None
    top_k: int
    samples: int
    exact: int
    indexed_recall: float | None
    by_tenant: Mapping[str, float] = field(hash=False)
    index_ms: float | None
    exact_ms: float | None
    complete: bool


class Searched(Protocol):
    """The chunks that `measure` searches, of a collection or of an existing table.

    The methods bypass the policy: a slow exact search must not count as a failure of the database.
    """

    async def sample(self, number: int, tenant: str | None) -> Sequence[tuple[str, str]]:
        """Return tenant and id of random chunks that have a vector, of one tenant or of all."""

    async def vector(self, tenant: str, chunk_id: str) -> Vector | None:
        """Return the vector of a chunk; None if the chunk is gone."""

    async def search(self, query: Query, *, exactly: bool | None) -> tuple[list[asyncpg.Record], float]:
        """Run a search. Return its rows, with id, distance and scan, and its time in seconds.

        Args:
            query: the query.
            exactly: whether to search exactly, or through the index. None: as the store itself searches.
        """


async def measure(
    searched: Searched,
    address: Address,
    *,
    sample: int,
    tenant: str | None,
    top_k: int,
    seconds: float,
    vectors: Sequence[Vector] | None,
) -> Recall:
    """Compare searches through the index with exact ones. See `PgVectorStore.measure_recall`."""
    if not 1 <= sample <= MOST_SAMPLES:
        raise InvalidInput(f"sample is {sample}: it must be from 1 to {MOST_SAMPLES:,}")
    if not 1 <= top_k <= MOST_TOP_K:
        raise InvalidInput(f"top_k is {top_k}: it must be from 1 to {MOST_TOP_K}")
    if not 0 < seconds < math.inf:
        raise InvalidInput(f"seconds is {seconds}: it must be a positive, finite number")
    if vectors is not None and tenant is None:
        raise InvalidInput("vectors need a tenant: name the tenant whose chunks they are compared with")
    if tenant is not None:
        check_tenant(tenant)
    run = _Run(searched, top_k)
    complete = False
    try:
        with deadline(seconds) as limit:
            if vectors is not None and tenant is not None:
                for vector in vectors[:sample]:
                    await run.compare(tenant, np.asarray(vector, np.float32), None)
            else:
                for of_tenant, chunk_id in sorted(await searched.sample(sample, tenant)):
                    await run.compare_chunk(of_tenant, chunk_id)
            complete = True
    except DeadlineExceeded:
        # If the caller's own deadline has passed, that is an error. If only the time of the measurement has passed, the result is incomplete.
        if limit.remaining() > 0:
            raise
    except Exception as error:
        ours = translate(error, address, stage="search")
        if ours is error:
            raise
        raise ours from cause_of(error)
    return run.result(complete=complete)


class CollectionSearched:
    """The chunks of a collection.

    Invariant: each statement sets the tenant whose vectors it compares, and row-level security applies to it.

    Args:
        settings: the store's settings.
        collection: the collection.
    """

    def __init__(self, settings: StoreSettings, collection: Collection) -> None:
        self._settings = settings
        self._collection = collection

    async def sample(self, number: int, tenant: str | None) -> Sequence[tuple[str, str]]:
        """Return tenant and id of random chunks that have a vector, of one tenant or of all."""
        name = "sample_of_tenant" if tenant is not None else "sample"
        values: tuple[object, ...] = (number,) if tenant is None else (tenant, number)

        async def work(connection: PooledConnection) -> list[asyncpg.Record]:
            return await connection.fetch(self._collection.statement(name, connection), *values)

        rows = await self._collection.call_directly(work, tenant=tenant or "")
        return [(row["tenant"], row["id"]) for row in rows]

    async def vector(self, tenant: str, chunk_id: str) -> Vector | None:
        """Return the vector of a chunk; None if the chunk is gone."""

        async def work(connection: PooledConnection) -> list[asyncpg.Record]:
            return await connection.fetch(self._collection.statement("vector_of_chunk", connection), tenant, chunk_id)

        rows = await self._collection.call_directly(work, tenant=tenant)
        return np.asarray(rows[0]["embedding"], np.float32) if rows else None

    async def search(self, query: Query, *, exactly: bool | None) -> tuple[list[asyncpg.Record], float]:
        """Run a search. Return its rows and its time in seconds."""

        async def work(connection: PooledConnection) -> tuple[list[asyncpg.Record], float]:
            sql, values = search_statement(
                self._settings,
                connection,
                query,
                exactly=exactly,
                chunks=(None,),
                scans_text=False,
                hides_expired=False,
            )
            began = anyio.current_time()
            return await connection.fetch(sql, *values), anyio.current_time() - began

        return await self._collection.call_directly(work, tenant=query.tenant)


class _Run:
    """The results of one measurement so far."""

    def __init__(self, searched: Searched, top_k: int) -> None:
        self._searched = searched
        self._top_k = top_k
        self._recalls: dict[str, list[float]] = {}
        self._indexed: list[float] = []
        self._seconds: dict[bool, list[float]] = {False: [], True: []}
        # Whether a tenant is searched exactly, as its first search shows.
        self._exactly: dict[str, bool] = {}

    async def compare_chunk(self, tenant: str, chunk_id: str) -> None:
        """Search for a stored chunk's vector, without counting the chunk itself."""
        vector = await self._searched.vector(tenant, chunk_id)
        if vector is not None and np.isfinite(vector).all() and vector.any():
            await self.compare(tenant, vector, chunk_id)

    async def compare(self, tenant: str, vector: Vector, chunk_id: str | None) -> None:
        """Compare one search. `chunk_id` is not counted."""
        if tenant not in self._exactly:
            _, _, self._exactly[tenant] = await self._search(tenant, vector, chunk_id, None)
        recalls = self._recalls.setdefault(tenant, [])
        if self._exactly[tenant]:
            recalls.append(1.0)
            return
        found, index_seconds, _ = await self._search(tenant, vector, chunk_id, False)
        right, exact_seconds, _ = await self._search(tenant, vector, chunk_id, True)
        # Equally near chunks may come in any order, so the distances are compared and not the ids.
        furthest = right[-1] + SAME_DISTANCE if right else 0.0
        recall = sum(distance <= furthest for distance in found) / len(right) if right else 1.0
        recalls.append(recall)
        self._indexed.append(recall)
        self._seconds[False].append(index_seconds)
        self._seconds[True].append(exact_seconds)

    def result(self, *, complete: bool) -> Recall:
        """Return the means."""
        every = [recall for recalls in self._recalls.values() for recall in recalls]
        index, exact = (1_000 * statistics.median(seconds) if seconds else None for seconds in self._seconds.values())
        return Recall(
            recall=statistics.fmean(every) if every else None,
            top_k=self._top_k,
            samples=len(every),
            exact=len(every) - len(self._indexed),
            indexed_recall=statistics.fmean(self._indexed) if self._indexed else None,
            by_tenant={tenant: statistics.fmean(recalls) for tenant, recalls in self._recalls.items() if recalls},
            index_ms=index,
            exact_ms=exact,
            complete=complete,
        )

    async def _search(
        self, tenant: str, vector: Vector, chunk_id: str | None, exactly: bool | None
    ) -> tuple[list[float], float, bool]:
        """Return the distances of the nearest chunks, the seconds, and whether the search was exact. Each distance is that of another chunk."""
        query = Query(
            question="", tenant=tenant, mode="vector", top_k=self._top_k + (chunk_id is not None), vector=vector
        )
        rows, seconds = await self._searched.search(query, exactly=exactly)
        distances = {row["id"]: row["distance"] for row in rows if row["id"] != chunk_id}
        nearest = sorted(distance for distance in distances.values() if math.isfinite(distance))[: self._top_k]
        return nearest, seconds, any(row["scan"] == "exact" for row in rows) or not rows

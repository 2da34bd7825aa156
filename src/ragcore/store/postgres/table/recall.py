"""Measure the recall of an existing table's index. See `TableStore.measure_recall`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import anyio
import asyncpg

from ragcore.protocols import Query, Vector
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.passages import found_of
from ragcore.store.postgres.table.access import TableAccess
from ragcore.store.postgres.table.statements import Shape, statement_of
from ragcore.store.postgres.table.values import id_of, parameters

__all__ = ["Call", "TableSearched", "Work", "reading_chunks"]

# Work that returns rows, and a function that runs it, with the policy or without.
Work: TypeAlias = Callable[[PooledConnection, Shape], Awaitable[list[asyncpg.Record]]]
Call: TypeAlias = Callable[[Work], Awaitable[list[asyncpg.Record]]]


class TableSearched:
    """The chunks of one tenant of an existing table, for a measurement of the recall."""

    def __init__(
        self, access: TableAccess, rows: Callable[[Query, bool | None, Call], Awaitable[list[asyncpg.Record]]]
    ) -> None:
        self._access = access
        self._rows = rows

    async def sample(self, number: int, tenant: str | None) -> Sequence[tuple[str, str]]:
        """Return the tenant and the id of random chunks that have a vector."""
        assert tenant is not None

        async def work(connection: PooledConnection, shape: Shape) -> list[asyncpg.Record]:
            return await connection.fetch(statement_of("sample", shape, values=2), *parameters(tenant, shape, number))

        return [(tenant, row["id"]) for row in await self._access.call_directly(work)]

    async def vector(self, tenant: str, chunk_id: str) -> Vector | None:
        """Return the vector of a chunk; None if the chunk is gone."""
        vectors = found_of(
            await self._access.call_directly(reading_chunks(tenant, [chunk_id], with_vectors=True)), with_vectors=True
        ).vectors
        return None if vectors is None or not len(vectors) else vectors[0]

    async def search(self, query: Query, *, exactly: bool | None) -> tuple[list[asyncpg.Record], float]:
        """Run a search. Return its rows and its time in seconds."""
        began = anyio.current_time()
        return await self._rows(query, exactly, self._access.call_directly), anyio.current_time() - began


def reading_chunks(tenant: str, chunk_ids: Sequence[str], *, with_vectors: bool) -> Work:
    """Return the work that reads chunks with given ids."""

    async def work(connection: PooledConnection, shape: Shape) -> list[asyncpg.Record]:
        ids = list(dict.fromkeys(id_of(chunk_id, shape.id_type) for chunk_id in chunk_ids))
        sql = statement_of("chunks_by_id", shape, values=2, with_vectors=with_vectors)
        return await connection.fetch(sql, *parameters(tenant, shape, ids))

    return work

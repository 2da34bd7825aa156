"""The vectors of questions that processes share: a table with one row for each vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ragcore.protocols import Vector
from ragcore.store.postgres.collection import Collection, StoreSettings
from ragcore.types.validation import check_tenant

__all__ = ["CachedVectors"]


class CachedVectors:
    """Reads and writes the table of vectors. It is on the primary only: PostgreSQL does not replicate an unlogged table.

    Args:
        settings: the store's settings.
        collection: the collection with the table.
    """

    def __init__(self, settings: StoreSettings, collection: Collection) -> None:
        self._settings = settings
        self._collection = collection

    async def find(self, keys: Sequence[bytes], *, tenant: str) -> Mapping[bytes, Vector]:
        """Return the stored vectors by their keys, as float32 arrays of shape (dimension,). Keys without a vector are left out."""
        rows = await self._collection.fetch("cached_vectors", check_tenant(tenant), list(keys), stage="embed")
        return {row["key"]: np.frombuffer(row["vector"], dtype="<f4") for row in rows}

    async def keep(self, vectors: Mapping[bytes, Vector], *, tenant: str, seconds: float) -> None:
        """Store vectors. They expire after `seconds`."""
        encoded = [np.asarray(vector, dtype="<f4").tobytes() for vector in vectors.values()]
        await self._write("cache_vectors", check_tenant(tenant), list(vectors), encoded, float(seconds))

    async def trim(self, *, most: int | None, at_once: int) -> int:
        """Remove expired vectors of all tenants, and further ones if there are more than `most`; at most `at_once`. Return their number."""
        return await self._write("trim_cached_vectors", most, at_once)

    async def clear(self, *, tenant: str) -> int:
        """Remove the vectors of a tenant and return their number."""
        return await self._write("clear_cached_vectors", check_tenant(tenant))

    async def _write(self, name: str, /, *values: object) -> int:
        rows = await self._collection.fetch(name, *values, stage="write", policy=self._settings.write_policy)
        return int(rows[0]["removed"]) if rows else 0

"""pgvector as a database has it, and the binary form of its vectors."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ragcore.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncpg

__all__ = ["Extension", "decode_vector", "encode_vector", "find_extension"]

# hnsw.iterative_scan came with it.
OLDEST_PGVECTOR = (0, 8)

_EXTENSION = """
    select nspname as schema, extversion as version, pg_type.oid as type
    from pg_extension
    join pg_namespace on pg_namespace.oid = extnamespace
    join pg_type on typnamespace = extnamespace and typname = 'vector'
    where extname = 'vector'
"""


@dataclass(frozen=True, slots=True)
class Extension:
    """pgvector in a database.

    Attributes:
        schema: that it lives in.
        version: as the database writes it, "0.8.1".
        type: the oid of its type. Another one means that the extension was dropped and created again.
    """

    schema: str
    version: str
    type: int

    @property
    def is_too_old(self) -> bool:
        """Whether it lacks what a search needs."""
        numbers = tuple(int(part) for part in self.version.split(".")[:2] if part.isdigit())
        return numbers < OLDEST_PGVECTOR

    def check(self) -> None:
        """Raise `ConfigurationError` if the version is too old."""
        if self.is_too_old:
            raise ConfigurationError(
                f"pgvector {self.version} is too old, ragcore needs 0.8 or later: install it on the server, then run "
                "`alter extension vector update` as the extension's owner"
            )


async def find_extension(connection: asyncpg.Connection[asyncpg.Record]) -> Extension:
    """Look pgvector up.

    Raises:
        ValueError: the extension is missing.
    """
    row = await connection.fetchrow(_EXTENSION)
    if row is None:
        raise ValueError("unknown type: vector")
    return Extension(row["schema"], row["version"], row["type"])


def encode_vector(vector: NDArray[np.floating[Any]] | bytes) -> bytes:
    """pgvector's binary form: the number of dimensions, two bytes that are zero, big-endian floats. In an array of vectors each must have it already:
    asyncpg takes an array of numpy's for a nested array.
    """
    if isinstance(vector, bytes):
        return vector
    return struct.pack(">HH", len(vector), 0) + np.asarray(vector).astype(">f4").tobytes()


def decode_vector(data: bytes) -> NDArray[np.float32]:
    """A vector of pgvector's binary form, as (d,) float32."""
    return np.frombuffer(data, ">f4", offset=4).astype(np.float32)

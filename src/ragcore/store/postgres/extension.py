"""pgvector in a database, and the binary format of its vectors."""

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

# The first version with hnsw.iterative_scan.
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
        schema: schema in which it is installed.
        version: version as the database writes it, such as "0.8.1".
        type: oid of the type `vector`. It changes when the extension is dropped and created again.
    """

    schema: str
    version: str
    type: int

    @property
    def is_too_old(self) -> bool:
        """Whether the version lacks features that a search needs."""
        numbers = tuple(int(part) for part in self.version.split(".")[:2] if part.isdigit())
        return numbers < OLDEST_PGVECTOR

    def check(self) -> None:
        """Raise `ConfigurationError` if the version is too old."""
        if self.is_too_old:
            raise ConfigurationError(
                f"pgvector {self.version} is too old; ragcore needs 0.8 or later: install it on the server, then run "
                "`alter extension vector update` as the extension's owner"
            )


async def find_extension(connection: asyncpg.Connection[asyncpg.Record]) -> Extension:
    """Return pgvector's schema, version and type.

    Raises:
        ValueError: the extension is missing.
    """
    row = await connection.fetchrow(_EXTENSION)
    if row is None:
        raise ValueError("unknown type: vector")
    return Extension(row["schema"], row["version"], row["type"])


def encode_vector(vector: NDArray[np.floating[Any]] | bytes) -> bytes:
    """Return a vector in pgvector's binary format: the number of dimensions, two zero bytes, big-endian floats.

    Encode each vector of an array before you pass the array to asyncpg: it would treat NumPy arrays as nested arrays.
    """
    if isinstance(vector, bytes):
        return vector
    return struct.pack(">HH", len(vector), 0) + np.asarray(vector).astype(">f4").tobytes()


def decode_vector(data: bytes) -> NDArray[np.float32]:
    """Return a vector in pgvector's binary format as (d,) float32."""
    return np.frombuffer(data, ">f4", offset=4).astype(np.float32)

"""The index of a collection's vectors: its kind, its parameters, and the expressions that a search must use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from ragcore.errors import ConfigurationError
from ragcore.store.postgres.statements import filled
from ragcore.value import Value

__all__ = [
    "MOST_INDEXED",
    "MOST_INDEXED_WHOLE",
    "Index",
    "IndexKind",
    "default_kind",
    "index_name",
    "partition_name",
    "sort_expression",
]

IndexKind: TypeAlias = Literal["vector", "halfvec", "binary", "none"]

# pgvector's limits of dimensions for an HNSW index in full precision, in half precision, and of bits.
# Source: https://github.com/pgvector/pgvector#hnsw
MOST_INDEXED_WHOLE, MOST_INDEXED = 2_000, 4_000
MOST_DIMENSIONS: dict[IndexKind, int] = {
    "vector": MOST_INDEXED_WHOLE,
    "halfvec": MOST_INDEXED,
    "binary": 64_000,
    "none": 16_000,
}
# The indexed expression, its operator class, and the expression that sorts a search. The sort must contain the indexed expression word for word, or
# PostgreSQL does not use the index.
_INDEXED: dict[IndexKind, tuple[str, str, str]] = {
    "vector": ("embedding", "vector_cosine_ops", "embedding operator({vector}.<=>) $2"),
    "halfvec": (
        "(embedding::{vector}.halfvec({dimension}))",
        "halfvec_cosine_ops",
        "embedding::{vector}.halfvec({dimension}) operator({vector}.<=>) $2::{vector}.vector::{vector}.halfvec({dimension})",
    ),
    "binary": (
        "({vector}.binary_quantize(embedding)::bit({dimension}))",
        "bit_hamming_ops",
        "{vector}.binary_quantize(embedding)::bit({dimension}) operator({vector}.<~>) {vector}.binary_quantize($2::{vector}.vector)::bit({dimension})",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Index(Value):
    """The kind of a collection's index, and the parameters with which it is built.

    Attributes:
        kind: "vector": HNSW in full precision. "halfvec": HNSW in half precision, half as large. "binary": HNSW over one bit for each dimension; candidates
            are ranked again by the whole vectors. "none": no index, every search is exact.
        m: number of neighbours of a chunk in each layer of the graph, 2 to 100.
        ef_construction: number of candidates that are compared when a chunk is inserted, 4 to 1,000; at least twice `m`.

    Raises:
        ConfigurationError: a value is not allowed.
    """

    kind: IndexKind = "vector"
    m: int = 16
    ef_construction: int = 64

    def __post_init__(self) -> None:
        if self.kind not in get_args(IndexKind):
            raise ConfigurationError(
                f"the kind of index is {self.kind!r}: it must be one of {', '.join(get_args(IndexKind))}"
            )
        if not 2 <= self.m <= 100:
            raise ConfigurationError(f"m is {self.m}: it must be from 2 to 100, as pgvector requires")
        if not max(4, 2 * self.m) <= self.ef_construction <= 1_000:
            raise ConfigurationError(
                f"ef_construction is {self.ef_construction}: it must be from {max(4, 2 * self.m)} (twice m) to 1,000, as pgvector requires"
            )

    @classmethod
    def recorded(cls, settings: Mapping[str, str]) -> Index | None:
        """Return the index that a collection has recorded; None before the migration that records it."""
        if "index" not in settings:
            return None
        return cls(
            kind=cast("IndexKind", settings["index"]),
            m=int(settings["index_m"]),
            ef_construction=int(settings["index_ef_construction"]),
        )

    def check_dimension(self, dimension: int) -> None:
        """Raise `ConfigurationError` if pgvector can't index so many dimensions in this kind of index."""
        most = MOST_DIMENSIONS[self.kind]
        if dimension > most:
            others = [kind for kind in get_args(IndexKind) if dimension <= MOST_DIMENSIONS[kind]]
            raise ConfigurationError(
                f"an index of the kind {self.kind!r} holds at most {most:,} dimensions, and the collection has {dimension:,}: use {' or '.join(others)}"
            )

    @property
    def operator_class(self) -> str | None:
        """Name of pgvector's operator class; None without an index."""
        return None if self.kind == "none" else _INDEXED[self.kind][1]

    def definition(self, table: str, *, vector: str, dimension: int) -> str:
        """Return what follows CREATE INDEX and the name: the table, the method, the indexed expression, and the parameters. Names must be quoted."""
        expression, operators, _ = _INDEXED[self.kind]
        indexed = filled(expression, {"vector": vector, "dimension": str(dimension)})
        return f"on {table} using hnsw ({indexed} {vector}.{operators}) with (m = {self.m}, ef_construction = {self.ef_construction})"


def sort_expression(kind: IndexKind) -> str:
    """Return the expression that sorts a search by an index, with placeholders for pgvector's schema and the dimension. $2 is the question's vector."""
    return _INDEXED["vector" if kind == "none" else kind][2]


def default_kind(dimension: int) -> IndexKind:
    """Return the kind of index of a collection for which none was chosen."""
    if dimension <= MOST_INDEXED_WHOLE:
        return "vector"
    return "halfvec" if dimension <= MOST_INDEXED else "none"


def partition_name(table: str, number: int) -> str:
    """Return the name of a partition of a table."""
    return f"{table}_p{number}"


def index_name(table: str) -> str:
    """Return the name of the index of a table of chunks."""
    return f"{table}_embedding"

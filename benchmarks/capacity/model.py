"""Predicts the size of an index from pgvector's layout, and processor times from the length of a walk through the graph, fitted to measured points.

The number of parameters is small: the layout has none, and a walk has three for each kind of index.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ragcore.store.postgres.index import IndexKind

__all__ = [
    "Model",
    "Point",
    "Walk",
    "build_time",
    "index_bytes",
    "layout_of_index",
    "layout_of_table",
    "left_out",
    "search_time",
]

# Returns the value for so many rows of this dimension.
Model: TypeAlias = Callable[[int, int], float]

PAGE = 8_192
# A page's header and the link to the next page, and the pointer to each tuple.
# Source: https://www.postgresql.org/docs/current/storage-page-layout.html, and HnswPageOpaqueData in pgvector's src/hnsw.h
USABLE, POINTER = PAGE - 24 - 8, 4
# The part of an element before its vector: flags, the addresses of up to ten rows, and the address of its neighbours. A vector has 8 bytes before its
# numbers; a list of neighbours has 4 bytes before its addresses of 6 bytes each.
# Source: HnswElementTupleData and HnswNeighborTupleData in pgvector's src/hnsw.h
ELEMENT, VECTOR, NEIGHBOURS, ADDRESS = 72, 8, 4, 6
# A row of the table without its vector, and with a text of one word.
ROW = 130
BYTES_OF_A_NUMBER = {"vector": 4.0, "halfvec": 2.0, "binary": 1 / 8}


@dataclass(frozen=True, slots=True)
class Point:
    """A measured collection with one kind of index. `value` is what the model predicts: seconds, or bytes."""

    kind: IndexKind
    rows: int
    dimension: int
    value: float


@dataclass(frozen=True, slots=True)
class Walk:
    """The time of a walk through the graph: fixed + by_dimension · dimension + by_log · ln(bytes of the index).

    The number of vectors that a walk compares grows with the logarithm of the rows. Each comparison takes longer with more dimensions, and in a larger
    index, of which the processor's caches hold a smaller part. With ln(rows), the largest error for a point that is left out was 26 % instead of 18 %.

    Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using HNSW graphs" (2018), section 4.2.
    """

    kind: IndexKind
    fixed: float
    by_dimension: float
    by_log: float

    def __call__(self, rows: int, dimension: int) -> float:
        size = index_bytes(self.kind, rows, dimension)
        return self.fixed + self.by_dimension * dimension + self.by_log * math.log(size)


def index_bytes(kind: IndexKind, rows: int, dimension: int, *, m: int = 16) -> float:
    """Return the size of an HNSW index. It has no fitted parameter.

    A page holds whole elements, each with the list of its neighbours: 2 · m in the lowest layer, and m in each further one. An element reaches the next layer
    with a probability of 1 / m. An index is never smaller than one page for its description and one for elements.
    """
    element = _aligned(ELEMENT + VECTOR + math.ceil(dimension * BYTES_OF_A_NUMBER[kind]))
    lists = _aligned(NEIGHBOURS + 2 * m * ADDRESS) + m * ADDRESS / (m - 1)
    both = element + lists + 2 * POINTER
    if both > USABLE:
        # The neighbours are on another page than the element.
        return PAGE * (1 + rows + rows / (USABLE // (lists + POINTER)))
    return PAGE * (1 + math.ceil(rows / (USABLE // both)))


def layout_of_index(points: Sequence[Point]) -> Model:
    """Return the model of an index's size in MB for points of one kind. Nothing is fitted."""
    kind = points[0].kind
    return lambda rows, dimension: index_bytes(kind, rows, dimension) / 1e6


def layout_of_table(points: Sequence[Point]) -> Model:
    """Return the model of a table's size in MB with its indexes of keys. The size of these indexes for a row is fitted."""
    keys = statistics.median(point.value * 1e6 / point.rows - _heap_bytes(point.dimension) for point in points)
    return lambda rows, dimension: rows * (_heap_bytes(dimension) + keys) / 1e6


def search_time(points: Sequence[Point]) -> Walk:
    """Return the model of the time of a search, fitted to points of one kind."""
    return _walk(points, [point.value for point in points])


def build_time(points: Sequence[Point]) -> Model:
    """Return the model of the time of a build, fitted to points of one kind. Each row is inserted by a walk."""
    walk = _walk(points, [point.value / point.rows for point in points])
    return lambda rows, dimension: rows * walk(rows, dimension)


def _walk(points: Sequence[Point], values: Sequence[float]) -> Walk:
    # Divided by the value, so that errors count in relation to it.
    rows = [
        np.array([1, point.dimension, math.log(index_bytes(point.kind, point.rows, point.dimension))]) / value
        for point, value in zip(points, values, strict=True)
    ]
    found, *_ = np.linalg.lstsq(np.array(rows), np.ones(len(rows)), rcond=None)
    return Walk(points[0].kind, *map(float, found))


def left_out(points: Sequence[Point], fit: Callable[[Sequence[Point]], Model]) -> list[tuple[Point, float]]:
    """Return each point with its prediction by a model that is fitted to the other points of its kind."""
    predicted = []
    for point in points:
        others = [other for other in points if other.kind == point.kind and other is not point]
        predicted.append((point, fit(others)(point.rows, point.dimension)))
    return predicted


def _heap_bytes(dimension: int) -> float:
    """Return the size of a row in the table. A page holds whole rows; a row that does not fit into a page has its vector elsewhere, in parts of 2,000 bytes."""
    row = ROW + VECTOR + 4 * dimension
    if row > PAGE - 24 - POINTER:
        return ROW + PAGE / 4 * math.ceil((VECTOR + 4 * dimension) / 1_996)
    return PAGE / ((PAGE - 24) // (_aligned(row) + POINTER))


def _aligned(size: int) -> int:
    return -(-size // 8) * 8

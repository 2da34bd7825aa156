"""Convert the rows of a search to passages."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Literal, cast

import asyncpg
import numpy as np

from ragcore.protocols import Found, Query, Vector
from ragcore.types import Passage

__all__ = ["Scan", "found_of", "nearest", "passage_of", "ranked"]

Scan = Literal["exact", "index", "completed"]

_read_json = json.JSONDecoder().raw_decode
# These set the fields of a passage directly. The constructor of a frozen dataclass takes three times as long, which would add a fifth to the time that a
# search with ten passages takes in this process.
_set_field = {field.name: getattr(Passage, field.name).__set__ for field in fields(Passage)}
_set_chunk_id, _set_document_id, _set_text, _set_title, _set_source, _set_start, _set_end = (
    _set_field[name] for name in ("chunk_id", "document_id", "text", "title", "source", "start", "end")
)
_set_metadata, _set_score, _set_text_score, _set_shared, _set_rerank_score = (
    _set_field[name] for name in ("metadata", "score", "text_score", "shared", "rerank_score")
)


def nearest(rows: Sequence[asyncpg.Record], query: Query) -> Found:
    """Return the passages of a vector search that reach the threshold, sorted and without duplicates."""
    # The index and the scan that completes it may both find a chunk. Sorting here makes a search a tenth faster than sorting in the statement.
    seen: dict[object, tuple[float, str, str, asyncpg.Record]] = {}
    scan: Scan | None = None
    for row in rows:
        distance, how, shared = row[8], row[9], row[10]
        scan = how if scan is None or how == "completed" else scan
        if math.isfinite(distance):  # the distance of a zero vector is NaN, which can't be sorted
            seen[row[0] if shared is None else (row[0], shared)] = (distance, row[0], shared or "", row)
    # Sorted by distance, then by the chunk's id, so that the order of equal distances is stable.
    by_distance = sorted(seen.values(), key=lambda one: one[:3])
    threshold = -math.inf if query.score_threshold is None else query.score_threshold
    chosen = [one[-1] for one in by_distance[: query.top_k] if 1 - one[0] >= threshold]
    passages = [_passage(row, 1 - row[8], None) for row in chosen]
    best = 1 - by_distance[0][0] if by_distance else None
    return Found(passages, best_score=best, scan=scan, vectors=_vectors(chosen) if query.with_vectors else None)


def ranked(rows: Sequence[asyncpg.Record], query: Query) -> Found:
    """Return the passages of a text or hybrid search. If nothing was found, a hybrid search has one row, which only has the best score and the scan."""
    chosen = [row for row in rows if row["id"] is not None]
    passages = [_passage(row, row["score"], row["text_score"]) for row in chosen]
    if not rows:
        return Found(passages)
    return Found(
        passages,
        best_score=rows[0]["best_score"],
        scan=cast("Scan | None", rows[0]["scan"]),
        vectors=_vectors(chosen) if query.with_vectors else None,
    )


def found_of(rows: Sequence[asyncpg.Record], *, with_vectors: bool) -> Found:
    """Return the passages of rows that have no scores."""
    return Found(map(passage_of, rows), vectors=_vectors(rows) if with_vectors else None)


def passage_of(row: asyncpg.Record) -> Passage:
    """Return the passage of a row that has no scores."""
    return _passage(row, None, None)


def _vectors(rows: Sequence[asyncpg.Record]) -> list[Vector | None]:
    return [None if row["embedding"] is None else np.asarray(row["embedding"], np.float32) for row in rows]


def _passage(row: asyncpg.Record, score: float | None, text_score: float | None) -> Passage:
    """Return a passage made of the first eight columns of a row."""
    passage: Passage = object.__new__(Passage)
    # One statement for each field: a loop takes a third longer.
    chunk_id, document_id, text, title, source, start, end, metadata, *_ = row.values()
    _set_chunk_id(passage, chunk_id)
    _set_document_id(passage, document_id)
    _set_text(passage, text)
    _set_title(passage, title)
    _set_source(passage, source)
    _set_start(passage, start)
    _set_end(passage, end)
    _set_metadata(passage, {} if metadata == "{}" else _read_json(metadata)[0])
    _set_score(passage, score)
    _set_text_score(passage, text_score)
    _set_shared(passage, row["shared"])
    _set_rerank_score(passage, None)
    return passage

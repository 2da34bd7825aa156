"""The statements of searches and the passages from their rows, without a database."""

from __future__ import annotations

import math
from typing import cast

import asyncpg
import pytest

from ragcore import Query, meta
from ragcore.store.postgres.passages import nearest
from ragcore.store.postgres.searches import statement_of
from ragcore.types import Mode

from .contract import query


def made(asked: Query, *, exact_rows: int | None = None, hides_expired: bool = False) -> tuple[str, list[object]]:
    return statement_of(
        asked,
        schema="ragcore",
        vector_schema="public",
        exactly=None,
        exact_rows=exact_rows,
        ef_search=100,
        chunks=12.6,
        scans_text=False,
        hides_expired=hides_expired,
    )


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("vector", ["tenant", "vector"]),
        ("text", ["tenant", "question", "chunks"]),
        ("hybrid", ["tenant", "vector", "question", "threshold", "chunks"]),
    ],
)
def test_values_are_in_the_order_of_the_parameters_with_the_filters_last(mode: Mode, names: list[str]) -> None:
    asked = query("who?", mode=mode, threshold=0.5, filter=meta("kind").eq("plan"))
    values = {"tenant": "a", "vector": asked.vector, "question": "who?", "threshold": 0.5, "chunks": 13}
    sql, given = made(asked)
    assert given[: len(names)] == [values[name] for name in names]
    assert given[len(names) :] == ["kind", "plan"]
    assert f"${len(given)}::text" in sql
    assert f"${len(given) + 1}" not in sql


def test_without_exact_rows_two_million_numbers_are_compared() -> None:
    asked = query("who?")
    assert asked.vector is not None
    assert made(asked) == made(asked, exact_rows=2_000_000 // len(asked.vector))
    assert made(asked) != made(asked, exact_rows=7)


def test_a_tenant_with_expired_chunks_is_searched_as_with_a_filter() -> None:
    plain, hidden = (made(query("who?", mode="text"), hides_expired=hides) for hides in (False, True))
    assert "and true" in hidden[0]
    assert "and true" not in plain[0]
    assert hidden[1] == plain[1]


def row(chunk: str, distance: float, scan: str) -> asyncpg.Record:
    return cast("asyncpg.Record", (chunk, "d", "text", "", "d.md", 0, 4, "{}", distance, scan))


def test_nearest_sorts_and_removes_duplicates_and_chunks_without_a_distance() -> None:
    rows = [
        row("b", 0.2, "index"),
        row("a", 0.2, "index"),
        row("zero", math.nan, "index"),
        row("b", 0.2, "completed"),
        row("far", 0.9, "completed"),
    ]
    found = nearest(rows, query("who?", threshold=0.5))
    assert [(passage.chunk_id, passage.score) for passage in found] == [("a", 0.8), ("b", 0.8)]
    assert (found.best_score, found.scan) == (0.8, "completed")


def test_the_best_score_is_known_if_nothing_reaches_the_threshold() -> None:
    found = nearest([row("a", 0.7, "exact")], query("who?", threshold=0.5))
    assert list(found) == []
    assert found.best_score == pytest.approx(0.3)

"""The statements of searches and the passages from their rows, without a database."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import cast, get_args

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
        kind="vector",
        partitions=0,
        exactly=None,
        exact_rows=exact_rows,
        ef_search=100,
        chunks=[12.6, None][: 1 + len(asked.shared)],
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


@pytest.mark.parametrize("mode", get_args(Mode))
def test_the_shared_tenants_are_a_parameter_before_the_filters(mode: Mode) -> None:
    asked = replace(query("who?", mode=mode, filter=meta("kind").eq("plan")), shared=("plans",))
    sql, given = made(asked)
    place = next(number for number, value in enumerate(given, start=1) if isinstance(value, list) and "plans" in value)
    assert given[place:] == ["kind", "plan"]
    assert f"search_shared(${place}::text[])" in sql
    if mode != "vector":
        assert given[place - 2] == [13, None]
    assert "search_shared" not in made(replace(asked, shared=()))[0]


class Row(tuple[object, ...]):
    """A row that can be read by position, and by the name "shared"."""

    __slots__ = ()

    def __getitem__(self, key: object) -> object:  # type: ignore[override]
        return super().__getitem__(10) if key == "shared" else super().__getitem__(key)  # type: ignore[call-overload]

    def values(self) -> Iterator[object]:
        return iter(self)


def row(chunk: str, distance: float, scan: str, shared: str | None = None) -> asyncpg.Record:
    return cast("asyncpg.Record", Row((chunk, "d", "text", "", "d.md", 0, 4, "{}", distance, scan, shared)))


def test_nearest_keeps_chunks_of_two_tenants_with_the_same_id() -> None:
    rows = [row("a", 0.2, "exact"), row("a", 0.1, "exact", "plans"), row("a", 0.1, "exact", "plans")]
    assert [(p.chunk_id, p.shared) for p in nearest(rows, query("who?"))] == [("a", "plans"), ("a", None)]


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

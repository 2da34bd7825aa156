"""Compares text and hybrid search with the statements of release 0.1, in the same database and the same run."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
from pgvector.asyncpg import register_vector
from tests.support.squad import TENANT, Squad

from ragcore import Passage, PgVectorStore, Query
from ragcore.loadtest.figures import Figures, say

__all__ = ["beside_release_0_1"]

STATEMENTS = Path(__file__).parents[1] / "statements"
TOP_K = 10
EXACT_ROWS = 5_208


async def beside_release_0_1(squad: Squad, figures: Figures, *, quick: bool) -> None:
    """Measure `text_ms_ratio` and `hybrid_ms_ratio`: the median time of a search, divided by that of release 0.1's statement.

    Both use the application's role, and alternate from question to question. The earlier statement runs on a connection without a policy and without a
    pool, and its rows become passages as well. So the ratio includes everything that ragcore does around its own statement.
    """
    dsn = squad.store._address.dsn.reveal()
    connection = await asyncpg.connect(dsn)
    await register_vector(connection)
    statements = {mode: (STATEMENTS / f"{mode}_0_1.sql").read_text() for mode in ("text", "hybrid")}
    numbers = range(0, len(squad.questions), 40 if quick else 4)

    async def text_before(number: int) -> None:
        _passages(await connection.fetch(statements["text"], TENANT, squad.questions[number]))

    async def hybrid_before(number: int) -> None:
        vector, question = squad.vectors[number], squad.questions[number]
        rows = await connection.fetch(statements["hybrid"], TENANT, "100", True, EXACT_ROWS, vector, None, question)
        _passages(rows)

    try:
        async with PgVectorStore(dsn) as store:

            async def text(number: int) -> None:
                await store.search(Query(question=squad.questions[number], tenant=TENANT, mode="text", top_k=TOP_K))

            async def hybrid(number: int) -> None:
                vector, question = squad.vectors[number], squad.questions[number]
                await store.search(Query(question=question, tenant=TENANT, mode="hybrid", top_k=TOP_K, vector=vector))

            for mode, now, before in (("text", text, text_before), ("hybrid", hybrid, hybrid_before)):
                say(f"compared with {mode} search of release 0.1 …")
                after, earlier = await _alternating(now, before, numbers)
                figures.values[f"{mode}_ms_ratio"] = after / earlier
                figures.values[f"p50_ms_{mode}_0_1"] = 1000 * earlier
    finally:
        await connection.close()


async def _alternating(
    now: Callable[[int], Awaitable[None]], before: Callable[[int], Awaitable[None]], numbers: range
) -> tuple[float, float]:
    """Return the median seconds of both. The first 20 questions only warm up."""
    seconds: dict[Callable[[int], Awaitable[None]], list[float]] = {now: [], before: []}
    for place, number in enumerate((*numbers[:20], *numbers)):
        for call in (now, before) if place % 2 else (before, now):
            began = time.perf_counter()
            await call(number)
            if place >= 20:
                seconds[call].append(time.perf_counter() - began)
    return statistics.median(seconds[now]), statistics.median(seconds[before])


def _passages(rows: list[Any]) -> list[Passage]:
    return [
        Passage(
            row["id"],
            row["document_id"],
            row["text"],
            title=row["title"],
            source=row["source"],
            start=row["start_char"],
            end=row["end_char"],
            metadata=json.loads(row["metadata"]),
            score=row["score"],
            text_score=row["text_score"],
        )
        for row in rows
    ]

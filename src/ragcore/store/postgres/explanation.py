"""Explain a search: how PostgreSQL runs it, in plain words. The words contain no texts, no values and no names of tenants."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragcore.protocols import Query
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.passages import Scan
from ragcore.value import Value

__all__ = ["Explanation", "Plan", "explain_plan", "explanation_of"]

# The fields of a plan that may be shown. Expressions may not, because they contain the values of the call.
SHOWN = (
    "Node Type",
    "Subplan Name",
    "CTE Name",
    "Relation Name",
    "Index Name",
    "Function Name",
    "Actual Rows",
    "Actual Loops",
    "Rows Removed by Filter",
    "Rows Removed by Index Recheck",
    "Subplans Removed",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(Value):
    """How PostgreSQL runs a search. `str()` returns it in a few sentences.

    Attributes:
        uses_vector_index: whether it walks through the index of the vectors. None: the mode compares no vectors.
        indexes: names of all indexes that it uses.
        milliseconds: time in the server.
        advice: recommended changes; () if there are none.
        plan: the plan as JSON, without expressions and values.
        scan: how the vectors are searched: "exact", "index", or "completed" if the index found too few of the tenant's chunks. None: not known, or the mode
            compares no vectors.
        kind: kind of the collection's index; None for a `TableStore`.
        rows_read: number of rows of chunks that the search reads.
        rows_filtered: number of rows that it reads and drops, because of their tenant or the filter.
    """

    uses_vector_index: bool | None
    indexes: tuple[str, ...]
    milliseconds: float
    advice: tuple[str, ...]
    plan: str
    scan: Scan | None = None
    kind: str | None = None
    rows_read: int = 0
    rows_filtered: int = 0

    def __str__(self) -> str:
        return " ".join([*self._sentences(), *(f"{one[:1].upper()}{one[1:]}." for one in self.advice)])

    def _sentences(self) -> Iterator[str]:
        kind = "" if self.kind is None else f" of the kind {self.kind}"
        if self.uses_vector_index is None:
            yield "The search compares words and no vectors."
        elif self.scan == "completed":
            yield f"The index{kind} found too few of the tenant's chunks, so an exact scan completed the search."
        elif self.uses_vector_index:
            yield f"The search walks through the index{kind}."
        else:
            yield "The search compares all of the tenant's vectors exactly, without an index of the vectors."
        used = f" It uses {', '.join(self.indexes)}." if self.indexes else ""
        yield f"It reads {self.rows_read:,} rows and drops {self.rows_filtered:,} of other tenants or by the filter, in {self.milliseconds:.1f} ms.{used}"


class Plan:
    """The plan of a statement that PostgreSQL has run."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._plan = plan["Plan"]
        self.milliseconds = float(plan["Execution Time"])
        self.nodes: Sequence[Mapping[str, Any]] = [
            node for node in _nodes(self._plan) if node.get("Actual Loops", 0) > 0
        ]

    @property
    def indexes(self) -> tuple[str, ...]:
        """Names of the indexes that were used."""
        return tuple(dict.fromkeys(node["Index Name"] for node in self.nodes if "Index Name" in node))

    @property
    def scanned(self) -> set[str]:
        """Names of the tables that were read as a whole."""
        return {node["Relation Name"] for node in self.nodes if node["Node Type"] == "Seq Scan"}

    def rows(self, tables: Sequence[str]) -> tuple[int, int]:
        """Return the numbers of rows of some tables that were read and of those that were dropped."""
        read = dropped = 0.0
        for node in self.nodes:
            if node.get("Relation Name") in tables:
                removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
                read += node["Actual Loops"] * (node["Actual Rows"] + removed)
                dropped += node["Actual Loops"] * removed
        return round(read), round(dropped)

    def shown(self) -> str:
        """Return the plan as JSON, without expressions and values."""
        return json.dumps(_shown(self._plan), indent=2)


async def explain_plan(connection: PooledConnection, sql: str, values: Sequence[object]) -> Plan:
    """Run a statement with EXPLAIN ANALYZE."""
    rows = await connection.fetch(f"explain (analyze, costs off, timing off, summary on, format json) {sql}", *values)
    return Plan(json.loads(rows[0][0])[0])


def explanation_of(
    plan: Plan, query: Query, *, scan: Scan | None, kind: str, tables: Sequence[str], advice: Sequence[str]
) -> Explanation:
    """Return the explanation of a search of a collection.

    Args:
        plan: the plan of the search.
        query: the query.
        scan: how the search compared vectors.
        kind: kind of the collection's index.
        tables: tables that hold the chunks.
        advice: recommended changes.
    """
    read, dropped = plan.rows(tables)
    return Explanation(
        uses_vector_index=None if query.mode == "text" else scan in ("index", "completed"),
        indexes=plan.indexes,
        milliseconds=plan.milliseconds,
        advice=tuple(advice),
        plan=plan.shown(),
        scan=scan,
        kind=kind,
        rows_read=read,
        rows_filtered=dropped,
    )


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _shown(plan: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: plan[name] for name in SHOWN if name in plan}
    children = [_shown(child) for child in plan.get("Plans", ())]
    return {**shown, "Plans": children} if children else shown

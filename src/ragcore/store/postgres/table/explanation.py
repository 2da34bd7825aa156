"""Explain a search of an existing table: the indexes that it uses, and the one to create."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragcore.protocols import Query
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.statements import literal, quoted
from ragcore.store.postgres.table.statements import Shape
from ragcore.store.table import Table
from ragcore.value import Value

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(Value):
    """How PostgreSQL runs a search.

    Attributes:
        uses_vector_index: whether it walks through the index of the vectors. None: the mode compares no vectors.
        indexes: names of all indexes that it uses.
        milliseconds: time in the server.
        advice: what to change; () if nothing is missing.
        plan: the plan as PostgreSQL prints it.
    """

    uses_vector_index: bool | None
    indexes: tuple[str, ...]
    milliseconds: float
    advice: tuple[str, ...]
    plan: str


async def explain(
    connection: PooledConnection, table: Table, shape: Shape, query: Query, sql: str, values: Sequence[object]
) -> Explanation:
    """Run a statement with EXPLAIN ANALYZE."""
    rows = await connection.fetch(f"explain (analyze, costs off, timing off, summary on, format json) {sql}", *values)
    plan = json.loads(rows[0][0])[0]
    nodes = [*_nodes(plan["Plan"])]
    used = [node["Index Name"] for node in nodes if "Index Name" in node and node.get("Actual Loops", 0) > 0]
    walks = None if query.mode == "text" else shape.index is not None and shape.index.name in used
    scanned = {
        node.get("Relation Name")
        for node in nodes
        if node["Node Type"] == "Seq Scan" and node.get("Actual Loops", 0) > 0
    }
    return Explanation(
        uses_vector_index=walks,
        indexes=tuple(dict.fromkeys(used)),
        milliseconds=float(plan["Execution Time"]),
        advice=tuple(_advice(table, shape, query, scanned, walks)),
        plan=json.dumps(plan["Plan"], indent=2),
    )


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _advice(table: Table, shape: Shape, query: Query, scanned: set[Any], walks: bool | None) -> Iterator[str]:
    relation = f"{quoted(table.schema)}.{quoted(table.table)}"
    if walks is False and not table.exact:
        yield f"the index of the vectors is not used: run `analyze {relation}`, and compare the predicate with that of the index"
    if table.table in scanned:
        tenant = table.columns["tenant"]
        key = table.keys[0] if tenant.in_parent else tenant.name
        indexed = (
            quoted(key) if tenant.in_parent or tenant.key is None else f"({quoted(key)} ->> {literal(tenant.key)})"
        )
        if not tenant.in_parent and tenant.key is not None:
            indexed = f"({indexed})"
        yield f"the whole table is read to find the tenant's chunks: as the owner, run `create index concurrently on {relation} ({indexed})`"
        if query.mode != "vector":
            words = (
                quoted(table.words)
                if table.words is not None
                else f"to_tsvector({literal(table.language)}::regconfig, {quoted(table.text)})"
            )
            yield f"for text search, also run `create index concurrently on {relation} using gin ({words})`"
    if table.parent is not None and table.parent in scanned and table.columns["tenant"].in_parent:
        parent = f"{quoted(table.parent_schema or table.schema)}.{quoted(table.parent)}"
        yield f"the whole parent table is read: as the owner, run `create index concurrently on {parent} ({quoted(table.columns['tenant'].name)})`"

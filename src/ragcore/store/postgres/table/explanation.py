"""Explain a search of an existing table: the indexes that it uses, and those to create."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ragcore.protocols import Query
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.explanation import Explanation, explain_plan
from ragcore.store.postgres.statements import literal, quoted
from ragcore.store.postgres.table.catalogue import quoted_relation
from ragcore.store.postgres.table.statements import Shape
from ragcore.store.table import Column, Table

__all__ = ["Explanation", "explain"]


async def explain(
    connection: PooledConnection, table: Table, shape: Shape, query: Query, sql: str, values: Sequence[object]
) -> Explanation:
    """Run a statement with EXPLAIN ANALYZE."""
    plan = await explain_plan(connection, sql, values)
    walks = None if query.mode == "text" else shape.index is not None and shape.index.name in plan.indexes
    read, dropped = plan.rows([table.table])
    return Explanation(
        uses_vector_index=walks,
        indexes=plan.indexes,
        milliseconds=plan.milliseconds,
        advice=tuple(_advice(table, shape, query, plan.scanned, walks)),
        plan=plan.shown(),
        rows_read=read,
        rows_filtered=dropped,
    )


def _advice(table: Table, shape: Shape, query: Query, scanned: set[str], walks: bool | None) -> Iterator[str]:
    relation = quoted_relation(table)
    if walks is False and not table.exact:
        yield f"the index of the vectors is not used: run `analyze {relation}`, and compare the predicate with that of the index"
    if table.table in scanned:
        tenant = table.columns["tenant"]
        indexed = quoted(table.keys[0]) if tenant.in_parent else _expression(tenant)
        yield f"the whole table is read to find the tenant's chunks: as the owner, run `create index concurrently on {relation} ({indexed})`"
        if query.mode != "vector":
            words = (
                quoted(table.words)
                if table.words is not None
                else f"to_tsvector({literal(table.language)}::regconfig, {_expression(table.columns['text'])})"
            )
            yield f"for text search, also run `create index concurrently on {relation} using gin ({words})`"
    if table.parent is not None and table.parent in scanned and table.columns["tenant"].in_parent:
        parent, indexed = quoted_relation(table, parent=True), _expression(table.columns["tenant"])
        yield f"the whole parent table is read: as the owner, run `create index concurrently on {parent} ({indexed})`"


def _expression(column: Column) -> str:
    """Return the SQL of a column, or of a key of a JSON column, as an index needs it."""
    name = quoted(column.name)
    return name if column.key is None else f"({name} ->> {literal(column.key)})"

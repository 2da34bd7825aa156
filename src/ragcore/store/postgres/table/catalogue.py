"""Facts of PostgreSQL's catalogue about an existing table and its parent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.statements import quoted, statement
from ragcore.store.table import Column, Table
from ragcore.value import Value

__all__ = [
    "INTEGERS",
    "TENANTS",
    "TEXTS",
    "Catalogue",
    "Relation",
    "VectorIndex",
    "find_index",
    "quoted_relation",
    "read_catalogue",
]

# Names of the types for texts, for integers, and for tenants.
TEXTS = ("text", "varchar")
INTEGERS = ("int2", "int4", "int8")
TENANTS = (*TEXTS, "uuid", *INTEGERS)
CAST = re.compile(r"::(?:\"?\w+\"?\.)?(vector|halfvec)\((\d+)\)")


@dataclass(frozen=True, slots=True)
class VectorIndex(Value):
    """An index that serves the searches of a table.

    Attributes:
        name: name of the index.
        method: "hnsw" or "ivfflat".
        cast: type to which the index casts the column; None: it indexes the column itself.
        dimension: dimension of that type.
        predicate: condition of a partial index.
    """

    name: str
    method: str
    cast: Literal["vector", "halfvec"] | None = None
    dimension: int | None = None
    predicate: str | None = None


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the catalogue describes it.

    Attributes:
        kind: `relkind` of pg_class.
        has_rls, rls_applies: whether row-level security is enabled, and whether it applies to the role.
        open_policy: name of a policy that shows every row to the role; None if there is none.
        foreign_part: name of a foreign table that is a partition of this one; None if there is none.
        about_rows: PostgreSQL's estimate; -1 if it is unknown.
        may_use_schema, may_delete: whether the role may use the table's schema, and delete rows.
        columns: facts about each column by its name.
        indexes, foreign_keys: facts about each.
    """

    kind: str
    has_rls: bool
    rls_applies: bool
    open_policy: str | None
    foreign_part: str | None
    about_rows: int
    may_use_schema: bool
    may_delete: bool
    columns: Mapping[str, Mapping[str, Any]]
    indexes: Sequence[Mapping[str, Any]]
    foreign_keys: Sequence[Mapping[str, Any]]

    @property
    def is_protected(self) -> bool:
        """Whether row-level security hides rows from the role."""
        return self.rls_applies and self.open_policy is None

    def computes(self, start: str, column: str, end: str, *, partial: bool = False) -> bool:
        """Whether an index computes an expression of a column for each row. Then no row exists for which the expression fails.

        Args:
            start, end: texts before and after the column's name, as PostgreSQL prints the expression.
            column: name of the column.
            partial: whether a partial index counts as well.
        """
        pattern = rf"{re.escape(start)}(?:{re.escape(column)}|{re.escape(quoted(column))}){re.escape(end)}"
        return any(
            index["valid"] and (partial or index["predicate"] is None) and re.search(pattern, index["expression"])
            for index in self.indexes
        )


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The catalogue's facts about the table of a mapping and its parent, as the role that runs the searches sees them."""

    role: str
    database: str
    server_version: str
    in_recovery: bool
    bypasses_rls: bool
    chunks: Relation | None
    parent: Relation | None

    def type_of(self, column: Column) -> str | None:
        """Return the name of a column's type; "text" for a JSON key; None if the column is missing."""
        relation = self.parent if column.in_parent else self.chunks
        found = None if relation is None else relation.columns.get(column.name)
        if found is None:
            return None
        return str(found["type"]) if column.key is None else "text"

    def is_nullable(self, column: Column | None) -> bool:
        """Whether a column may be null, as a JSON key always may."""
        relation = self.parent if column is not None and column.in_parent else self.chunks
        if column is None or relation is None:
            return False
        return column.key is not None or bool(relation.columns.get(column.name, {}).get("nullable"))


def quoted_relation(table: Table, *, parent: bool = False) -> str:
    """Return schema and name of the table of chunks, or of its parent, for SQL; "" if there is no parent."""
    if not parent:
        return f"{quoted(table.schema)}.{quoted(table.table)}"
    return "" if table.parent is None else f"{quoted(table.parent_schema or table.schema)}.{quoted(table.parent)}"


async def read_catalogue(connection: PooledConnection, table: Table) -> Catalogue:
    """Read the catalogue's facts about the tables of a mapping."""
    parent_schema = None if table.parent is None else table.parent_schema or table.schema
    row = await connection.fetchrow(statement("table_inspect"), table.schema, table.table, parent_schema, table.parent)
    assert row is not None
    relations = {one["side"]: _relation(one) for one in json.loads(row["relations"] or "[]")}
    return Catalogue(
        role=row["role"],
        database=row["database"],
        server_version=row["server_version"],
        in_recovery=bool(row["in_recovery"]),
        bypasses_rls=bool(row["bypasses_rls"]),
        chunks=relations.get("chunks"),
        parent=relations.get("parent"),
    )


def find_index(chunks: Relation, table: Table, embedding: Mapping[str, Any]) -> VectorIndex | None:
    """Return an index that can serve a search by cosine distance; None if there is none. An index of the column itself is preferred."""
    found = []
    for index in chunks.indexes:
        operators = re.fullmatch(r"(vector|halfvec)_cosine_ops", index["operators"])
        if operators is None or index["method"] not in ("hnsw", "ivfflat") or not index["valid"]:
            continue
        if index["column"] == table.embedding:
            found.append(VectorIndex(index["name"], index["method"], predicate=index["predicate"]))
        elif (cast := CAST.search(index["expression"])) is not None and _casts(index["expression"], table.embedding):
            target: Literal["vector", "halfvec"] = "halfvec" if cast[1] == "halfvec" else "vector"
            dimension = int(cast[2])
            if embedding["modifier"] in (-1, dimension):
                found.append(VectorIndex(index["name"], index["method"], target, dimension, index["predicate"]))
    fits = [one for one in found if _predicate_fits(one.predicate, table)]
    return min(fits, key=lambda one: (one.cast is not None, one.method != "hnsw", one.name), default=None)


def _casts(expression: str, column: str) -> bool:
    """Whether an indexed expression is a cast of the column, such as `(embedding::halfvec(3072))`."""
    return expression.strip("()").split("::")[0].strip("()") in (column, quoted(column))


def _predicate_fits(predicate: str | None, table: Table) -> bool:
    """Whether a partial index can serve the mapping. PostgreSQL itself compares the predicates. `TableStore.explain` shows whether it uses the index."""
    return predicate is None or table.predicate is not None or "IS NOT NULL" in predicate


def _relation(facts: Mapping[str, Any]) -> Relation:
    return Relation(
        kind=facts["kind"],
        has_rls=facts["has_rls"],
        rls_applies=facts["rls_applies"],
        open_policy=facts["open_policy"],
        foreign_part=facts["foreign_part"],
        about_rows=facts["about_rows"],
        may_use_schema=facts["may_use_schema"],
        may_delete=facts["may_delete"],
        columns={column["name"]: column for column in facts["columns"]},
        indexes=facts["indexes"],
        foreign_keys=facts["foreign_keys"],
    )

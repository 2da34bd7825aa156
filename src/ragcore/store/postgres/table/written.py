"""The columns of an existing table that the store writes, and the SQL of their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ragcore.store.postgres.statements import literal, quoted
from ragcore.store.postgres.table.catalogue import INTEGERS, TEXTS, Catalogue, quoted_relation
from ragcore.store.table import Column, Table
from ragcore.value import Value

__all__ = ["WrittenColumn", "writing_problems", "written_columns"]


@dataclass(frozen=True, slots=True)
class WrittenColumn(Value):
    """A column that the store writes.

    Attributes:
        name: name of the column.
        in_parent: whether it is a column of the parent table.
        value: SQL of its value. The row `given` has the parts of a chunk or a document, and $1 is the tenant.
    """

    name: str
    in_parent: bool
    value: str


def written_columns(catalogue: Catalogue, table: Table) -> Iterator[WrittenColumn]:
    """Yield the columns that the store writes, for a mapping whose columns exist."""
    for in_parent in (False, True) if table.parent is not None else (False,):
        for name, value in _values(catalogue, table, in_parent=in_parent).items():
            yield WrittenColumn(name, in_parent, value)


def writing_problems(catalogue: Catalogue, table: Table) -> Iterator[str]:
    """Yield one message for each reason why the store can't write, for a mapping whose columns exist."""
    for name, column in table.columns.items():
        facts = _facts(catalogue, column)
        if column.key is not None or facts["generated"]:
            continue
        if name == "id" and facts["type"] in INTEGERS and not facts["numbered"]:
            yield f"id: {table.relation}.{column.name} is of type {facts['type']}: to write, it must be text, varchar or uuid, or have a sequence"
        if name in ("title", "source") and facts["type"] not in TEXTS:
            yield f"{name}: {column.name} is of type {facts['type']}: to write, it must be {' or '.join(TEXTS)}"
    for name in table.constants:
        column = Column.parse(name)
        relation = catalogue.parent if column.in_parent else catalogue.chunks
        if relation is None or column.name not in relation.columns:
            yield f"constants: {_relation_name(table, in_parent=column.in_parent)} has no column {column.name!r}"
        elif Column(column.name, in_parent=column.in_parent) in _plain_columns(table):
            yield f"constants: {name} is a column of the mapping already"
    for in_parent in (False, True) if table.parent is not None else (False,):
        yield from _problems_of_side(catalogue, table, in_parent=in_parent)


def _problems_of_side(catalogue: Catalogue, table: Table, *, in_parent: bool) -> Iterator[str]:
    relation = catalogue.parent if in_parent else catalogue.chunks
    assert relation is not None
    name, what = _relation_name(table, in_parent=in_parent), "parent" if in_parent else "table"
    written = _values(catalogue, table, in_parent=in_parent)
    missing = [
        one
        for one, facts in relation.columns.items()
        if not (facts["nullable"] or facts["has_default"] or facts["generated"] or one in written)
    ]
    if missing:
        yield f"{what}: the columns {', '.join(missing)} of {name} must have a value and have no default: name them in the mapping or in constants"
    rights = []
    if not relation.may_delete:
        rights.append("delete")
    if not all(relation.columns[one]["may_insert"] for one in written if one in relation.columns):
        rights.append("insert")
    if in_parent and not all(relation.columns[one]["may_update"] for one in written if one in relation.columns):
        rights.append("update")
    if rights:
        yield (
            f"{what}: {catalogue.role} may not {' and '.join(rights)} rows of {name}: as its owner, run "
            f"`grant {', '.join(rights)} on {quoted_relation(table, parent=in_parent)} to {quoted(catalogue.role)}`"
        )


def _values(catalogue: Catalogue, table: Table, *, in_parent: bool) -> dict[str, str]:
    """Return the SQL of the values by the names of the columns of one table."""
    values: dict[str, str] = {}
    keys: dict[str, list[str]] = {}
    if table.parent is not None:
        key = Column(table.keys[in_parent], in_parent=in_parent)
        values[key.name] = _cast("given.document_id", _facts(catalogue, key))
    for name, column in table.columns.items():
        facts = _facts(catalogue, column)
        if column.in_parent != in_parent or facts["generated"] or (name in ("id", "order") and facts["numbered"]):
            continue
        value = "$1" if name == "tenant" else f"given.{FIELDS[name]}"
        if column.key is not None:
            keys.setdefault(column.name, []).append(f"{literal(column.key)}::text, {value}::text")
        elif name == "words":
            values[column.name] = f"to_tsvector({literal(table.language)}::regconfig, given.text)"
        else:
            values[column.name] = _cast(value, facts)
    # The keys of the mapping come last: the metadata of a document can't name another tenant.
    metadata = table.columns.get("metadata")
    for name, pairs in keys.items():
        is_metadata = metadata is not None and (metadata.name, metadata.in_parent) == (name, in_parent)
        base = "given.metadata" if is_metadata else "'{}'::jsonb"
        values[name] = _cast(
            f"({base} || jsonb_build_object({', '.join(pairs)}))", _facts(catalogue, Column(name, in_parent=in_parent))
        )
    for name, text in table.constants.items():
        column = Column.parse(name)
        relation = catalogue.parent if in_parent else catalogue.chunks
        if column.in_parent == in_parent and relation is not None and column.name in relation.columns:
            values[column.name] = _cast(f"{literal(text)}::text", relation.columns[column.name])
    return values


# The column of `given` for each field of a mapping.
FIELDS = {
    "id": "id",
    "text": "text",
    "embedding": "embedding",
    "document": "document_id",
    "order": "position",
    "title": "title",
    "source": "source",
    "metadata": "metadata",
    "words": "text",
    "content_hash": "content_hash",
}


def _facts(catalogue: Catalogue, column: Column) -> Mapping[str, Any]:
    relation = catalogue.parent if column.in_parent else catalogue.chunks
    assert relation is not None
    return relation.columns[column.name]


def _plain_columns(table: Table) -> set[Column]:
    found = {Column(one.name, in_parent=one.in_parent) for one in table.columns.values()}
    if table.parent is not None:
        found |= {Column(table.keys[0]), Column(table.keys[1], in_parent=True)}
    return found


def _relation_name(table: Table, *, in_parent: bool) -> str:
    return str(table.parent_relation) if in_parent else table.relation


def _cast(value: str, facts: Mapping[str, Any]) -> str:
    return f"({value})::{quoted(facts['type_schema'])}.{quoted(facts['type'])}"

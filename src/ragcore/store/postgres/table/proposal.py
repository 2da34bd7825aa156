"""Propose a mapping for an existing table, from the names and types of its columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import asyncpg

from ragcore.errors import ConfigurationError
from ragcore.resilience import deadline
from ragcore.store.postgres.connection import PooledConnection, connect_for_pool
from ragcore.store.postgres.dsn import parse
from ragcore.store.postgres.statements import quoted
from ragcore.store.postgres.table.catalogue import (
    INTEGERS,
    TENANTS,
    TEXTS,
    Relation,
    find_index,
    quoted_relation,
    read_catalogue,
)
from ragcore.store.postgres.table.checking import index_statement, look
from ragcore.store.postgres.table.inspection import TableInspection
from ragcore.store.postgres.translate import cause_of, translate
from ragcore.store.table import COLUMNS, Table
from ragcore.types.secret import Secret
from ragcore.value import Value

__all__ = ["Proposal", "propose"]

# Usual names of columns, the most likely first. A column is proposed only if its type also fits.
NAMES = {
    "id": "chunk_id id node_id uuid chunk_uuid",
    "text": "text content chunk_text document page_content body chunk passage",
    "tenant": "tenant tenant_id user_id owner_id owner account_id customer_id organization_id organisation_id org_id workspace_id team_id company_id "
    "client_id created_by user",
    "document": "document_id doc_id file_id ref_doc_id source_id parent_id doc",
    "order": "chunk_ord chunk_order chunk_index chunk_no ordinal ord position seq sequence idx place chunk_number",
    "title": "title name file_name filename heading",
    "source": "source url uri path file_path link",
    "metadata": "metadata metadata_ cmetadata meta details attributes",
}
SECONDS = 10.0
# Number of rows whose JSON metadata is searched for keys.
SAMPLE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal(Value):
    """A proposed mapping.

    Attributes:
        lines: environment variables, as NAME=value.
        dimension: dimension of the vectors; None if the column has none.
        missing: parts for which no column was found.
        problems: the problems of the proposed mapping, as the store would report them.
        advice: what to do about missing parts, and about vectors without an index.
    """

    lines: tuple[str, ...]
    dimension: int | None
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    advice: tuple[str, ...] = ()


async def propose(dsn: str | Secret, relation: str) -> Proposal:
    """Propose a mapping for a table, by reading the catalogue and, for keys of JSON metadata, some rows.

    Args:
        dsn: as in `TableStore`.
        relation: the table, as `schema.table` or `table` in the schema public.

    Raises:
        ConfigurationError: the table does not exist or has no column of vectors.
        StoreError: PostgreSQL can't be reached.
    """
    address = parse(dsn)
    schema, name = split_relation(relation)
    try:
        with deadline(SECONDS):
            connection = await connect_for_pool(address)
            try:
                table = Table(table=name, schema=schema or "public", tenant="tenant", isolation="where")
                table, missing, advice = await _mapped(connection, table)
                found = await look(connection, address, table)
            finally:
                connection.terminate()
    except Exception as error:
        ours = translate(error, address, stage="start")
        if ours is error:
            raise
        raise ours from cause_of(error)
    return Proposal(
        lines=tuple(_lines(table, missing)),
        dimension=found.dimension,
        missing=missing,
        problems=() if missing else _problems(found),
        advice=advice,
    )


def split_relation(relation: str) -> tuple[str | None, str]:
    """Return schema and name of a table; None if no schema is named."""
    schema, dot, name = relation.partition(".")
    return (schema, name) if dot else (None, schema)


def _problems(found: TableInspection) -> tuple[str, ...]:
    return tuple(finding.message for finding in found.problems)


async def _mapped(connection: PooledConnection, table: Table) -> tuple[Table, tuple[str, ...], tuple[str, ...]]:
    """Return the proposed mapping, the names of the parts that were not found, and what to do about them."""
    catalogue = await read_catalogue(connection, table)
    chunks = catalogue.chunks
    if chunks is None:
        raise ConfigurationError(
            f"{table.relation} does not exist, or {catalogue.role} may not see it: name it as schema.table"
        )
    vectors = [name for name, column in chunks.columns.items() if column["type"] in ("vector", "halfvec")]
    if not vectors:
        raise ConfigurationError(
            f"{table.relation} has no column of type vector or halfvec: name the table that has the vectors"
        )
    chosen: dict[str, str | None] = {"embedding": vectors[0]}
    chosen["id"] = _named(chunks, "id", TENANTS, unique=True) or next(
        (name for name, column in chunks.columns.items() if column["unique"] and column["type"] in TENANTS), None
    )
    chosen["text"] = _named(chunks, "text", TEXTS) or next(
        (name for name, one in chunks.columns.items() if one["type"] in TEXTS and not one["unique"]), None
    )
    chosen["metadata"] = _named(chunks, "metadata", ("json", "jsonb"))
    for what, types in (
        ("document", TENANTS),
        ("order", INTEGERS),
        ("title", TEXTS),
        ("source", TEXTS),
        ("tenant", TENANTS),
    ):
        chosen[what] = _named(chunks, what, types)
    chosen["words"] = next((name for name, column in chunks.columns.items() if column["type"] == "tsvector"), None)
    with_parent = await _with_parent(connection, table, chunks, chosen)
    if chosen["metadata"] is not None:
        keys = await _keys(connection, table, chosen["metadata"])
        for what in ("tenant", "document", "title", "source"):
            key = next((key for key in NAMES[what].split() if key in keys), None)
            if chosen[what] is None and key is not None:
                chosen[what] = f"{chosen['metadata']}->>{key}"
    missing = tuple(what for what in ("id", "text", "tenant") if chosen[what] is None)
    fields: dict[str, Any] = {what: name for what, name in chosen.items() if name is not None}
    exact = find_index(chunks, replace(table, embedding=vectors[0]), chunks.columns[vectors[0]]) is None
    mapped = replace(with_parent, **fields, exact=exact)
    if chunks.rls_applies and not missing:
        mapped = replace(mapped, isolation="rls")
    return mapped, missing, tuple(_advice(mapped, chunks, missing))


def _advice(table: Table, chunks: Relation, missing: Sequence[str]) -> Iterator[str]:
    if "id" in missing and (name := _named(chunks, "id", TENANTS)) is not None:
        statement = f"create unique index concurrently on {quoted_relation(table)} ({quoted(name)})"
        yield f"id: the column {name} has no unique index: as the owner, run `{statement}`"
    if "tenant" in missing and not chunks.foreign_keys:
        yield (
            f"tenant: {table.relation} has no foreign key to a parent table: if another table has the tenant, name it in RAGCORE_TABLE_PARENT, and write "
            "tenant=parent.COLUMN"
        )
    if table.exact:
        yield (
            f"no index of {table.relation} serves a search by cosine distance, so RAGCORE_TABLE_EXACT=true compares all of a tenant's vectors: for large "
            f"tenants, run `{index_statement(table, chunks.columns[table.embedding])}` as the owner, and leave this variable out"
        )


async def _with_parent(
    connection: PooledConnection, table: Table, chunks: Relation, chosen: dict[str, str | None]
) -> Table:
    """Return the mapping with a parent table, if a foreign key refers to a table that has a tenant or a title. Add the parent's columns to `chosen`."""
    for key in chunks.foreign_keys:
        if len(key["columns"]) != 1 or len(key["other"]) != 1:
            continue
        own, other = key["columns"][0], key["other"][0]
        tried = replace(
            table,
            parent=key["table"],
            parent_schema=None if key["schema"] == table.schema else key["schema"],
            join=None if own == other == chosen["document"] else own if own == other else f"{own}={other}",
            document=chosen["document"] or own,
        )
        parent = (await read_catalogue(connection, tried)).parent
        if parent is None:
            continue
        tenant = _named(parent, "tenant", TENANTS) if chosen["tenant"] is None else None
        title, source = _named(parent, "title", TEXTS), _named(parent, "source", TEXTS)
        if tenant is None and (chosen["tenant"] is None or title is None):
            continue
        chosen["document"] = chosen["document"] or own
        for what, name in (("tenant", tenant), ("title", title), ("source", source)):
            if chosen[what] is None and name is not None:
                chosen[what] = f"parent.{name}"
        return tried
    return table


def _named(relation: Relation, what: str, types: Sequence[str], *, unique: bool = False) -> str | None:
    """Return the column with the most likely name whose type fits."""
    for name in NAMES[what].split():
        column: Mapping[str, Any] | None = relation.columns.get(name)
        if column is not None and column["type"] in types and (column["unique"] or not unique):
            return name
    return None


async def _keys(connection: PooledConnection, table: Table, column: str) -> set[str]:
    """Return keys of the JSON metadata in some rows; an empty set if the role may not read them."""
    name = quoted(column)
    sql = (
        f"select distinct key from (select {name}::jsonb as data from {quoted_relation(table)} limit {SAMPLE}) as rows "  # noqa: S608
        "cross join lateral jsonb_object_keys(case when jsonb_typeof(data) = 'object' then data else '{}' end) as key"
    )
    try:
        return {row["key"] for row in await connection.fetch(sql)}
    except asyncpg.PostgresError:
        return set()


def _lines(table: Table, missing: Sequence[str]) -> Iterator[str]:
    yield f"RAGCORE_TABLE={table.relation}"
    defaults = {"id": "id", "text": "text", "embedding": "embedding"}
    named = {name: "…" if name in missing else getattr(table, name) for name in COLUMNS}
    pairs = [f"{name}={text}" for name, text in named.items() if text is not None and text != defaults.get(name)]
    yield f"RAGCORE_TABLE_COLUMNS={','.join(pairs)}"
    if table.parent is not None:
        yield f"RAGCORE_TABLE_PARENT={table.parent_relation}"
    if table.join is not None:
        yield f"RAGCORE_TABLE_JOIN={table.join}"
    if table.isolation != "rls":
        yield f"RAGCORE_TABLE_ISOLATION={table.isolation}"
    if table.exact:
        yield "RAGCORE_TABLE_EXACT=true"

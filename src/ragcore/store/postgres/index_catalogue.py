"""The tables and indexes of a collection as the catalogue has them, and the kind of index that the collection records."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from ragcore.store.postgres.connection import Connection
from ragcore.store.postgres.extension import Extension
from ragcore.store.postgres.index import Index, IndexKind, index_name
from ragcore.store.postgres.searches import function_placeholders
from ragcore.store.postgres.statements import SQL, filled, literal, quoted

__all__ = [
    "NEW",
    "OLD",
    "create_index",
    "fits",
    "indexes_of",
    "parameters_of",
    "record",
    "replace_function",
    "tables_of",
]

# The name of an index ends so while it is built, and after it has been replaced.
NEW, OLD = "_new", "_old"
_INDEXES = """
    select i.relname as name, x.indisvalid as valid, oc.opcname as operators, coalesce(i.reloptions, '{}') as options, pg_relation_size(i.oid) as bytes
    from pg_index as x
    join pg_class as i on i.oid = x.indexrelid
    join pg_opclass as oc on oc.oid = x.indclass[0]
    where x.indrelid = $1::text::regclass and i.relname = any($2::text[])
"""
_TABLES = """
    select relname::text from pg_class where relkind = 'r' and (
        oid = $1::text::regclass or oid in (select inhrelid from pg_inherits where inhparent = $1::text::regclass)
    )
    order by relname
"""


async def tables_of(connection: Connection, schema: str) -> Sequence[str]:
    """Return the tables that hold the chunks of a collection: its partitions, or the one table."""
    rows = await connection.fetch(_TABLES, f"{quoted(schema)}.chunk")
    return [row["relname"] for row in rows]


async def create_index(connection: Connection, schema: str, index: Index, extension: Extension, dimension: int) -> None:
    """Create the index of a new, empty collection, and record its kind."""
    for table in await tables_of(connection, schema):
        await connection.execute(f"drop index if exists {quoted(schema)}.{quoted(index_name(table))}")
        if index.kind != "none":
            on = index.definition(
                f"{quoted(schema)}.{quoted(table)}", vector=quoted(extension.schema), dimension=dimension
            )
            await connection.execute(f"create index {quoted(index_name(table))} {on}")
    await record(connection, schema, index)


async def replace_function(
    connection: Connection, schema: str, kind: IndexKind, extension: Extension, *, dimension: int, partitions: int
) -> None:
    """Replace the function that contains the indexed expression."""
    names = {
        "schema": quoted(schema),
        "chunk_literal": literal(f"{quoted(schema)}.chunk"),
        "vector": quoted(extension.schema),
        "dimension": str(dimension),
    }
    functions = function_placeholders(dimension, kind, partitions)
    functions = {name: filled(text, names) for name, text in functions.items()}
    await connection.execute(filled(SQL["nearest_further"], {**names, **functions}))


async def record(connection: Connection, schema: str, index: Index) -> None:
    """Record the kind and the parameters of the index in the collection's settings."""
    values = {"index": index.kind, "index_m": index.m, "index_ef_construction": index.ef_construction}
    for name, value in values.items():
        await connection.execute(
            f"update {quoted(schema)}.setting set value = $2 where name = $1 and value <> $2",  # noqa: S608  # checked and quoted
            name,
            str(value),
        )


async def indexes_of(connection: Connection, schema: str, table: str) -> dict[str, asyncpg.Record]:
    """Return the indexes of a table of chunks by name: the index of its vectors, the new one, and the replaced one."""
    own = index_name(table)
    rows = await connection.fetch(_INDEXES, f"{quoted(schema)}.{quoted(table)}", [own, own + NEW, own + OLD])
    return {row["name"]: row for row in rows}


def fits(found: asyncpg.Record, wanted: Index) -> bool:
    """Whether an index has this kind and these parameters."""
    operators: str = found["operators"]
    return operators == wanted.operator_class and parameters_of(found) == (wanted.m, wanted.ef_construction)


def parameters_of(found: asyncpg.Record) -> tuple[int, int]:
    """Return m and ef_construction of an index. Without options, pgvector uses its defaults, which are ours."""
    options = dict(option.split("=", 1) for option in found["options"])
    return int(options.get("m", Index().m)), int(options.get("ef_construction", Index().ef_construction))

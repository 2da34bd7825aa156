"""Compare a mapping with the catalogue: one message for each part that does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from socket import AF_UNIX
from typing import Any

import asyncpg

from ragcore.compat.private import transport_of
from ragcore.store.postgres.connection import PooledConnection, compiling
from ragcore.store.postgres.dsn import Address
from ragcore.store.postgres.finding import Finding
from ragcore.store.postgres.index import MOST_INDEXED, MOST_INDEXED_WHOLE
from ragcore.store.postgres.statements import literal, quoted
from ragcore.store.postgres.table.catalogue import (
    INTEGERS,
    TENANTS,
    TEXTS,
    Catalogue,
    Relation,
    VectorIndex,
    find_index,
    quoted_relation,
    read_catalogue,
)
from ragcore.store.postgres.table.inspection import TableInspection
from ragcore.store.postgres.table.written import writing_problems, written_columns
from ragcore.store.table import Column, Table

__all__ = ["index_statement", "look", "predicate_problem"]

KINDS = {
    "v": "a view: name the table behind it, because a view has no indexes and reads with its owner's rights",
    "m": "a materialized view: name a table, because row-level security can't protect a materialized view",
    "f": "a foreign table: connect to the database that has the table",
}


async def look(connection: PooledConnection, address: Address, table: Table) -> TableInspection:
    """Compare a mapping with the catalogue, through a connection that has the role of the searches."""
    catalogue = await read_catalogue(connection, table)
    problems = list(_problems(catalogue, table))
    chunks = catalogue.chunks
    embedding = None if chunks is None else chunks.columns.get(table.embedding)
    if chunks is not None and not any(one.severity == "error" for one in problems):
        # One after the other: in a transaction, no statement runs after one that failed.
        problem = await _language_problem(connection, table) or await predicate_problem(connection, table)
        if problem is not None:
            problems.append(Finding("error", problem))
    written = (
        tuple(written_columns(catalogue, table))
        if table.writable and not any(one.severity == "error" for one in problems)
        else ()
    )
    index = None if chunks is None or embedding is None else find_index(chunks, table, embedding)
    transport = transport_of(connection)
    socket = None if transport is None else transport.get_extra_info("socket")
    encrypted = transport is not None and transport.get_extra_info("ssl_object") is not None
    about = -1 if chunks is None else chunks.about_rows
    return TableInspection(
        address=f"{address.host or 'localhost'}/{catalogue.database}",
        relation=table.relation,
        role=catalogue.role,
        server_version=catalogue.server_version,
        pgvector=None if connection.extension is None else connection.extension.version,
        encrypted=encrypted,
        verified=encrypted and address.sslmode == "verify-full",
        local=socket is not None and socket.family == AF_UNIX,
        in_recovery=catalogue.in_recovery,
        isolation=table.isolation,
        rls_applies=_is_protected(catalogue, table),
        vector_type=None if embedding is None else str(embedding["type"]),
        dimension=_dimension(embedding, index),
        tenant_type=catalogue.type_of(Column.parse(table.tenant)),
        id_type=catalogue.type_of(Column.parse(table.id)),
        document_type=catalogue.type_of(Column.parse(table.document or table.id)),
        index=index,
        nullable=tuple(name for name in ("id", "document") if catalogue.is_nullable(table.columns.get(name))),
        unchecked_json=tuple(_unchecked_json(catalogue, table)),
        indexes_words=chunks is not None and _indexes_words(chunks, table),
        parent_key_type=None if table.parent is None else catalogue.type_of(Column(table.keys[1], in_parent=True)),
        written=written,
        about_chunks=None if about < 0 else about,
        problems=tuple(problems),
        notes=(*address.notes, *await compiling(connection, address)),
    )


def _unchecked_json(catalogue: Catalogue, table: Table) -> Iterator[Column]:
    """Yield the columns of type json without an index on a key. Such an index refuses values that PostgreSQL can't read."""
    for column in {Column(one.name, in_parent=one.in_parent): None for one in table.columns.values()}:
        relation = catalogue.parent if column.in_parent else catalogue.chunks
        facts = None if relation is None else relation.columns.get(column.name)
        if relation is None or facts is None or facts["type"] != "json":
            continue
        if not relation.computes("(", column.name, " ->> "):
            yield column


def _indexes_words(chunks: Relation, table: Table) -> bool:
    column = Column.parse(table.text)
    # A partial index may have the mapping's predicate.
    return any(
        chunks.computes(
            f"to_tsvector({literal(table.language)}::regconfig, {bracket}",
            column.name,
            end,
            partial=bool(table.predicate),
        )
        for bracket, end in (("", ")"), ("(", ")::text)"), ("(", f" ->> {literal(column.key or '')}::text))"))
    )


async def predicate_problem(connection: PooledConnection, table: Table) -> str | None:
    """Return the reason why the predicate is not one boolean expression without parameters; None if it is one.

    PostgreSQL parses it in three places: between the brackets of an array, between the words of CASE, and in a WHERE clause. Only one expression fits into
    all three. A text that closes a parenthesis or has a comma fails in at least one of them.
    """
    if table.predicate is None:
        return None
    text, relation = table.predicate, quoted_relation(table)
    for tried in (
        f"select array[\n{text}\n] from {relation} as i",  # noqa: S608  # this checks the operator's SQL
        f"select case when\n{text}\nthen true end from {relation} as i",  # noqa: S608
        f"select from {relation} as i where (\n{text}\n)",
    ):
        try:
            prepared = await connection.prepare(tried)
        except asyncpg.PostgresError as error:
            words = error.args[0] if error.args else type(error).__name__
            return f"predicate: {text!r} is not one boolean expression ({words})"
        if prepared.get_parameters():
            return f"predicate: {text!r} has parameters: write the values into it"
    return None


async def _language_problem(connection: PooledConnection, table: Table) -> str | None:
    try:
        await connection.fetchval(f"select {literal(table.language)}::regconfig")
    except asyncpg.PostgresError:
        return f"language: PostgreSQL has no text search configuration {table.language!r}; pg_ts_config lists them"
    return None


def _problems(catalogue: Catalogue, table: Table) -> Iterator[Finding]:
    """Yield the problems of the mapping. Problems of columns are left out if a table is missing."""
    role = catalogue.role
    wrong = [*_relation_problems(catalogue.chunks, table.schema, table.relation, "table", role)]
    if table.parent_relation is not None:
        schema = table.parent_schema or table.schema
        wrong += _relation_problems(catalogue.parent, schema, table.parent_relation, "parent", role)
    yield from (Finding("error", message) for message in wrong)
    if wrong:
        return
    missing = [*_column_problems(catalogue, table)]
    yield from (Finding("error", message) for message in missing)
    if not missing and table.writable:
        yield from (Finding("error", message) for message in writing_problems(catalogue, table))
    if not missing:
        yield from _isolation_problems(catalogue, table)
        yield from _index_problems(catalogue, table)


def _relation_problems(relation: Relation | None, schema: str, name: str, what: str, role: str) -> Iterator[str]:
    if relation is None:
        yield f"{what}: {name} does not exist, or {role} may not see it: check the schema and the name, which are case-sensitive"
    elif relation.kind in KINDS:
        yield f"{what}: {name} is {KINDS[relation.kind]}"
    elif relation.foreign_part is not None:
        yield f"{what}: {name} has the foreign table {relation.foreign_part} as a partition: connect to the database that has its rows"
    elif not relation.may_use_schema:
        yield f"{what}: {role} may not use the schema {schema}: as its owner, run `grant usage on schema {quoted(schema)} to {quoted(role)}`"


def _column_problems(catalogue: Catalogue, table: Table) -> Iterator[str]:
    for name, column in table.columns.items():
        relation, where = (
            (catalogue.parent, table.parent_relation) if column.in_parent else (catalogue.chunks, table.relation)
        )
        assert relation is not None
        facts = relation.columns.get(column.name)
        if facts is None:
            yield f"{name}: {where} has no column {column.name!r}; it has {', '.join(relation.columns)}"
            continue
        problem = _type_problem(name, column, facts)
        if problem is not None:
            yield f"{name}: {where}.{column.name} {problem}"
    yield from _right_problems(catalogue, table)
    chunks, parent = catalogue.chunks, catalogue.parent
    assert chunks is not None
    if parent is not None:
        own, other = table.keys
        for key, relation, where in ((own, chunks, table.relation), (other, parent, table.parent_relation)):
            if key not in relation.columns:
                yield f"join: {where} has no column {key!r}; write join as chunk_column=parent_column"
        if own in chunks.columns and other in parent.columns:
            types = chunks.columns[own]["type"], parent.columns[other]["type"]
            if types[0] != types[1] and not {*types} <= {*TEXTS} and not {*types} <= {*INTEGERS}:
                yield f"join: {table.relation}.{own} is {types[0]}, and {table.parent_relation}.{other} is {types[1]}: join columns of one type"
            if not (chunks.columns[own]["deterministic"] and parent.columns[other]["deterministic"]):
                yield (
                    f"join: {table.relation}.{own} or {table.parent_relation}.{other} has a collation for which different texts are equal, so a chunk could "
                    "get another tenant's parent: use a deterministic collation"
                )
            if not parent.columns[other]["unique"]:
                yield f"join: {table.parent_relation}.{other} has no unique index, so a chunk could have several parents: create one"


def _right_problems(catalogue: Catalogue, table: Table) -> Iterator[str]:
    """Yield one message for each table that the role may not read: the statements name all of its columns."""
    for what, relation, name in (
        ("table", catalogue.chunks, table.relation),
        ("parent", catalogue.parent, table.parent_relation),
    ):
        if relation is None:
            continue
        used = {column.name for column in table.columns.values() if column.in_parent == (what == "parent")}
        if table.parent is not None:
            used.add(table.keys[what == "parent"])
        denied = [one for one, facts in relation.columns.items() if one in used and not facts["may_select"]]
        if denied:
            grant = f"grant select on {quoted_relation(table, parent=what == 'parent')} to {quoted(catalogue.role)}"
            yield f"{what}: {catalogue.role} may not read {', '.join(denied)} of {name}: as its owner, run `{grant}`"


def _type_problem(name: str, column: Column, facts: Mapping[str, Any]) -> str | None:
    """Return the reason why the type of a column does not fit; None if it fits."""
    type_ = facts["type"]
    if column.key is not None:
        return None if type_ in ("json", "jsonb") else f"is of type {type_}: a key needs a column of type json or jsonb"
    if name == "tenant":
        if type_ not in TENANTS:
            return f"is of type {type_}: a tenant needs one of {', '.join(TENANTS)}"
        if not facts["deterministic"]:
            return "has a collation for which different texts are equal, so tenants would see each other's rows: use a deterministic collation"
    wanted = {
        "text": TEXTS,
        "embedding": ("vector", "halfvec"),
        "order": INTEGERS,
        "metadata": ("json", "jsonb"),
        "words": ("tsvector",),
        "id": TENANTS,
        "document": TENANTS,
        "content_hash": TEXTS,
    }.get(name)
    if wanted is None or type_ in wanted:
        return None
    return f"is of type {type_}: {name} needs {' or '.join(wanted)}"


def _is_protected(catalogue: Catalogue, table: Table) -> bool:
    """Whether row-level security applies to the table of chunks, or to the parent if the parent has the tenant: each statement joins the parent."""
    return any(relation.is_protected for relation in _guards(catalogue, table))


def _guards(catalogue: Catalogue, table: Table) -> list[Relation]:
    """Return the tables whose row-level security can isolate the tenants."""
    tables = (catalogue.chunks, catalogue.parent if Column.parse(table.tenant).in_parent else None)
    return [relation for relation in tables if relation is not None]


def _isolation_problems(catalogue: Catalogue, table: Table) -> Iterator[Finding]:
    if table.isolation == "rls" and not _is_protected(catalogue, table):
        has = catalogue.chunks is not None and catalogue.chunks.has_rls
        policies = [one.open_policy for one in _guards(catalogue, table) if one.rls_applies]
        if policies:
            reason = f"the policy {policies[0]!r} of {table.relation} or its parent shows every row to the role {catalogue.role}: replace its condition"
        else:
            reason = (
                f"row-level security of {table.relation} does not apply to the role {catalogue.role}, which "
                + ("is a superuser or has BYPASSRLS" if catalogue.bypasses_rls else "owns the table without FORCE")
                if has
                else f"{table.relation} has no row-level security"
            ) + ": connect as a role to which a policy applies, or name it in role="
        yield Finding(
            "error",
            f"isolation: {reason}. If the WHERE clause of each statement may be the only isolation of tenants, set isolation to 'where'",
        )
    if table.isolation == "where":
        yield Finding(
            "warning",
            f"isolation: tenants of {table.relation} are isolated by the WHERE clause alone; see the documentation of tenants",
        )


def _dimension(embedding: Mapping[str, Any] | None, index: VectorIndex | None) -> int | None:
    if embedding is None:
        return None
    modifier = int(embedding["modifier"])
    return modifier if modifier > 0 else None if index is None else index.dimension


def _index_problems(catalogue: Catalogue, table: Table) -> Iterator[Finding]:
    chunks = catalogue.chunks
    assert chunks is not None
    embedding = chunks.columns[table.embedding]
    if find_index(chunks, table, embedding) is not None or table.exact:
        return
    other = [
        f"{index['name']} ({index['operators']})"
        for index in chunks.indexes
        if index["method"] in ("hnsw", "ivfflat") and table.embedding in index["expression"]
    ]
    unfit = (
        f" ({', '.join(other)} {'do' if other[1:] else 'does'} not serve cosine distance or this predicate)"
        if other
        else ""
    )
    yield Finding(
        "error",
        f"embedding: no index of {table.relation} serves the searches{unfit}: as the owner, run `{index_statement(table, embedding)}`, or set exact to "
        "true, so that each search compares all of the tenant's vectors",
    )


def index_statement(table: Table, embedding: Mapping[str, Any]) -> str:
    """Return the statement that creates an index for the searches."""
    dimension, type_ = int(embedding["modifier"]), str(embedding["type"])
    column = quoted(table.embedding)
    if dimension <= 0:
        indexed = f"({column}::{type_}(…)) {type_}_cosine_ops"
    elif type_ == "vector" and MOST_INDEXED_WHOLE < dimension <= MOST_INDEXED:
        indexed = f"({column}::halfvec({dimension})) halfvec_cosine_ops"
    else:
        indexed = f"{column} {type_}_cosine_ops"
    condition = f" where ({table.predicate})" if table.predicate else ""
    return f"create index concurrently on {quoted_relation(table)} using hnsw ({indexed}){condition}"

"""Compose the statements of a `TableStore` from the parts in `sql/` and the names of a mapping.

Invariant: names, keys and the predicate of a mapping are filled in last and in one pass, quoted. So none of them can end a name or a text, and none is
searched for placeholders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ragcore.protocols import Query
from ragcore.store.fusion import DEPTH, RANK_CONSTANT, VECTOR_WEIGHT
from ragcore.store.postgres.conditions import Conditions
from ragcore.store.postgres.searches import COMPLETING, EXACT_NUMBERS, FETCHED, FUSED, MOST_CHUNKS, SCAN_TUPLES
from ragcore.store.postgres.statements import SQL, filled, literal, quoted
from ragcore.store.postgres.table.catalogue import VectorIndex, quoted_relation
from ragcore.store.postgres.table.inspection import TableInspection
from ragcore.store.postgres.table.written import WrittenColumn
from ragcore.store.table import Column, Table
from ragcore.types import Fusion, Mode

__all__ = ["Shape", "TableSearch", "search_of", "statement_of", "writing_statement"]

# The rows that are compared exactly: all of a small tenant. `sql/table_some` has the rows that complete a walk through the index.
ALL = "{rows} where s.small and c.tenant = s.tenant and c.embedding is not null {filter}"
INDEXED = "select tenant, row_table, row_place, id, distance, 'index' as scan from by_index"
# Without an index on the words, text search reads this many characters of a chunk. The words of a text of 1 MB can be too long for a tsvector.
READ_CHARACTERS = 50_000
# A value of type json, or null if it has a NUL character or half of a surrogate pair. Escaped backslashes and whole pairs are removed before the test.
READABLE = (
    f"(case when position({literal(chr(92) + 'u')} in {{value}}::text) = 0 or regexp_replace({{value}}::text, "
    + literal(r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..")
    + ", '', 'g') !~ "
    + literal(r"\\u(0000|[dD][89a-fA-F])")
    + " then {value} end)"
)
PASSAGE_COLUMNS = "c.id, c.document_id, c.text, c.title, c.source, c.start_char, c.end_char, c.metadata"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The mapping and the facts of the catalogue, which determine the names in a statement.

    Attributes:
        table: the mapping. Of its `settings`, only the names matter here.
        vector_schema: schema of pgvector.
        vector_type, tenant_type, id_type, document_type, index, nullable, unchecked_json, indexes_words, parent_key_type, written: as in `TableInspection`.
    """

    table: Table
    vector_schema: str
    vector_type: str
    tenant_type: str
    id_type: str
    document_type: str
    index: VectorIndex | None
    nullable: tuple[str, ...]
    unchecked_json: tuple[Column, ...]
    indexes_words: bool
    parent_key_type: str
    written: tuple[WrittenColumn, ...]

    @classmethod
    def of(cls, table: Table, found: TableInspection, *, vector_schema: str) -> Shape:
        """Return the shape of a mapping that fits."""
        return cls(
            table=table,
            vector_schema=vector_schema,
            vector_type=found.vector_type or "vector",
            tenant_type=found.tenant_type or "text",
            id_type=found.id_type or "text",
            document_type=found.document_type or "text",
            index=found.index,
            nullable=found.nullable,
            unchecked_json=found.unchecked_json,
            indexes_words=found.indexes_words,
            parent_key_type=found.parent_key_type or "text",
            written=found.written,
        )

    def __hash__(self) -> int:
        # Each call looks its statement up by the shape. Hashing all fields would take longer than the rest of the lookup.
        return hash(self.table.relation)

    def names(self, first_setting: int) -> dict[str, str]:
        """Return the values of the placeholders that contain names. `first_setting` is the number of the parameter with the first setting's value."""
        vector = quoted(self.vector_schema)
        settings = (
            f", set_config({literal(name)}, ${number}::text, true) as {quoted(f'setting {number}')}"
            for number, name in enumerate(self.table.settings, start=first_setting)
        )
        given = f"$2::{vector}.vector"
        whole = given if self.vector_type == "vector" else f"{given}::{vector}.halfvec"
        index = self.index
        indexed = f"c.embedding operator({vector}.<=>) {whole}"
        if index is not None and index.cast is not None:
            cast = f"{vector}.{index.cast}({index.dimension})"
            indexed = f"c.embedding::{cast} operator({vector}.<=>) {given}::{cast}"
        return {
            "tenant": f"$1::{self.tenant_type}",
            "settings": "".join(settings),
            "rows": self._rows(walked=False),
            "walked": self._rows(walked=True),
            "distance": f"c.embedding operator({vector}.<=>) {whole}",
            "indexed": indexed,
            "language": f"{literal(self.table.language)}::regconfig",
            "and_embedding": f", c.embedding::{vector}.vector as embedding",
            "id_type": self.id_type,
            "document_type": self.document_type,
            "or_alone": " or c.own_document is null and c.document_id = s.document_id"
            if "document" in self.nullable
            else "",
        }

    def _rows(self, *, walked: bool) -> str:
        """Return the table as a subquery `c` with fixed names of columns. PostgreSQL merges it with the statement, so it may use all indexes.

        Args:
            walked: whether the rows are read in the order of an index. The parent is then looked up for each row.
        """
        table = self.table
        chunks, parent = self._chunks, self._parent
        conditions = [f"(\n{table.predicate}\n)"] if table.predicate else []
        if "id" in self.nullable:
            conditions.append(f"i.{quoted(Column.parse(table.id).name)} is not null")
        condition = f" where {' and '.join(conditions)}" if conditions else ""
        columns = table.columns
        # Only the columns that are used, since the role may have no right to read the others.
        read = {column.name for column in columns.values() if not column.in_parent}
        if table.parent is not None:
            read.add(table.keys[0])
        names = ", ".join(f"i.{quoted(name)}" for name in sorted(read))
        source = (
            f'(select i.ctid as "row place", i.tableoid as "row table", {names} from {chunks} as i{condition}) as t'  # noqa: S608  # quoted
        )
        if table.parent is not None:
            own, other = (quoted(key) for key in table.keys)
            if walked:
                used = sorted({column.name for column in columns.values() if column.in_parent})
                names = ", ".join(f"q.{quoted(name)}" for name in used)
                source += (
                    f" cross join lateral (select {names} from {parent} as q where q.{other} = t.{own} limit 1) as p"  # noqa: S608
                )
            else:
                source += f" join {parent} as p on p.{other} = t.{own}"
        shown = {name: self._expression(column) for name, column in columns.items()}
        document = shown.get("document", shown["id"])
        document_id = f"({document})::text"
        if "document" in self.nullable:
            document_id = f"coalesce({document_id}, ({shown['id']})::text)"
        metadata = f"({shown['metadata']})::jsonb" if table.metadata else "null::jsonb"
        # PostgreSQL refuses the words of a very long text. It may compute the words of other tenants' chunks, so one chunk would fail all searches.
        text = shown["text"] if self.indexes_words else f"left({shown['text']}, {READ_CHARACTERS})"
        words = shown.get("words", f"to_tsvector({literal(table.language)}::regconfig, {text})")
        return f"""(
            select t."row place" as row_place, t."row table" as row_table, {shown["tenant"]} as tenant, {shown["id"]} as own_id, {document} as own_document,
                   ({shown["id"]})::text as id, {document_id} as document_id, coalesce({shown["text"]}, '')::text as text,
                   coalesce(({shown.get("title", "''")})::text, '') as title, coalesce(({shown.get("source", "''")})::text, '') as source,
                   null::integer as start_char, null::integer as end_char,
                   case when jsonb_typeof({metadata}) = 'object' then {metadata} else '{{}}'::jsonb end as metadata,
                   {shown["embedding"]} as embedding, ({shown.get("content_hash", "null")})::text as content_hash,
                   ({shown.get("order", "null")})::bigint as position, {words} as words
            from {source}
        ) as c"""  # noqa: S608

    def names_of_writing(self) -> dict[str, str]:
        """Return the values of the placeholders in statements that write."""
        table = self.table
        own, other = (quoted(key) for key in table.keys) if table.parent is not None else ("", "")
        tenant, document = table.columns["tenant"], table.columns["document"]
        # In a table that is writable, a document in the parent is the column that joins both.
        of_document = f"i.{own}" if document.in_parent else self._expression(document, chunks="i")
        chunk_id = self._expression(table.columns["id"], chunks="i")
        owner = f"{self._expression(tenant, chunks='i')} = $1::{self.tenant_type}"
        if tenant.in_parent:
            owner = f"exists (select from {self._parent} as p where p.{other} = i.{own} and {owner})"
        columns = {side: [one for one in self.written if one.in_parent == side] for side in (False, True)}
        return {
            "vector": quoted(self.vector_schema),
            "tenant_type": self.tenant_type,
            "document_type": self.document_type,
            "rows": self._rows(walked=False),
            "chunks": self._chunks,
            "own_chunk": owner,
            "document": of_document,
            "id": chunk_id,
            "or_alone": f" or {of_document} is null and ({chunk_id})::text = any($3::text[])"
            if self.has_lone_chunks
            else "",
            "condition": f"(\n{table.predicate}\n)" if table.predicate else "true",
            "chunk_names": ", ".join(quoted(one.name) for one in columns[False]),
            "chunk_values": ", ".join(one.value for one in columns[False]),
            "parent": self._parent,
            "parent_key": other,
            "parent_key_type": self.parent_key_type,
            "parent_tenant": self._expression(tenant),
            "parent_names": ", ".join(quoted(one.name) for one in columns[True]),
            "parent_values": ", ".join(one.value for one in columns[True]),
        }

    @property
    def has_lone_chunks(self) -> bool:
        """Whether there may be chunks without a document."""
        return "document" in self.nullable

    @property
    def _chunks(self) -> str:
        return quoted_relation(self.table)

    @property
    def _parent(self) -> str:
        return quoted_relation(self.table, parent=True)

    def _expression(self, column: Column, *, chunks: str = "t") -> str:
        """Return the SQL of a column of the mapping. `chunks` is the alias of the table of chunks."""
        name = f"{'p' if column.in_parent else chunks}.{quoted(column.name)}"
        if Column(column.name, in_parent=column.in_parent) in self.unchecked_json:
            # The type json accepts values that `->>` refuses. One such row would fail the searches of all tenants.
            name = READABLE.replace("{value}", name)
        return name if column.key is None else f"({name} ->> {literal(column.key)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSearch:
    """The values that determine the text of a search statement.

    Attributes:
        shape: the mapping.
        mode, top_k, fusion, with_vectors: as in the query.
        exactly: whether to compare all of the tenant's vectors. None: the statement counts them first.
        walks_on: whether the walk through the index continues after its first `ef_search` chunks. It always does, unless `exactly` is False.
        exact_rows: largest number of chunks that are compared exactly.
        ef_search: breadth of the index search.
        filter: a condition that begins with "and", or "".
        first_setting: number of the parameter with the value of the first setting.
    """

    shape: Shape
    mode: Mode
    top_k: int
    fusion: Fusion
    with_vectors: bool
    exactly: bool | None
    walks_on: bool
    exact_rows: int
    ef_search: int
    filter: str
    first_setting: int

    @property
    def relies_on_index(self) -> bool:
        """Whether the statement reads only the first chunks of the index. If too few of them are the tenant's, the store searches again with `walks_on`."""
        return self.mode == "vector" and self.exactly is False and not self.walks_on

    def sql(self) -> str:
        """Return the statement. Its parameters are tenant, vector, question, threshold and number of the tenant's chunks, without those that the mode does
        not use. The values of the settings and those of the filter follow.
        """
        return _compose_search(self)


def search_of(
    query: Query,
    shape: Shape,
    *,
    tenant: object,
    exactly: bool | None,
    walks_on: bool,
    exact_rows: int | None,
    ef_search: int,
    chunks: float | None,
) -> tuple[str, list[object]]:
    """Return the statement of a query, and the values of its parameters.

    Args:
        query: the query; with a vector unless its mode is "text".
        shape: the mapping.
        tenant: the tenant as a value of its column.
        exactly: whether to compare all of the tenant's vectors. None: the statement counts them first.
        walks_on: as in `TableSearch`.
        exact_rows, ef_search: as in `TableStore`.
        chunks: estimated number of the tenant's chunks. None: the statement counts them.
    """
    values: list[object] = [tenant]
    if query.mode != "text":
        values.append(query.vector)
    if query.mode != "vector":
        values.append(query.question)
    if query.mode == "hybrid":
        values.append(query.score_threshold)
    if query.mode != "vector":
        values.append(None if chunks is None else round(chunks))
    first_setting = len(values) + 1
    values += [value(query.tenant) for value in shape.table.settings.values()]
    conditions = Conditions(query.filter, taken=len(values))
    dimension = 0 if query.vector is None else len(query.vector)
    search = TableSearch(
        shape=shape,
        mode=query.mode,
        top_k=query.top_k,
        fusion=query.fusion,
        with_vectors=query.with_vectors,
        exactly=True if shape.index is None else exactly,
        walks_on=walks_on,
        exact_rows=EXACT_NUMBERS // max(dimension, 1) if exact_rows is None else exact_rows,
        ef_search=ef_search,
        filter=conditions.sql,
        first_setting=first_setting,
    )
    return search.sql(), [*values, *conditions.values]


@lru_cache(maxsize=64)
def statement_of(name: str, shape: Shape, *, values: int, with_vectors: bool = False) -> str:
    """Return the statement `name` of `sql/` for a mapping. It has `values` parameters before those of the settings."""
    names = shape.names(values + 1)
    if not with_vectors:
        names["and_embedding"] = ""
    return _filled(SQL[f"table_{name}"], {"passage_columns": PASSAGE_COLUMNS}, names)


@lru_cache(maxsize=64)
def writing_statement(name: str, shape: Shape) -> str:
    """Return the statement `name` of `sql/` that writes, for a mapping."""
    return filled(SQL[f"table_{name}"], shape.names_of_writing())


@lru_cache(maxsize=1024)
def _compose_search(search: TableSearch) -> str:
    shape, index = search.shape, search.shape.index
    depth = max(DEPTH, search.top_k) if search.mode == "hybrid" else search.top_k
    half = index is not None and index.cast == "halfvec"
    enough = max(FETCHED * search.top_k, depth)
    small = {None: SQL["table_small"], True: "true", False: "false"}[search.exactly]
    exact = filled(SQL["table_exactly"], {"scan": "exact", "compared": ALL})
    completed = filled(SQL["table_exactly"], {"scan": "completed", "compared": SQL["table_some"]})
    # A step that the search can't need is left out: PostgreSQL would prepare it at each execution.
    steps = [
        *([] if search.exactly is False else [exact]),
        *([] if search.exactly else [INDEXED]),
        *([] if search.exactly else [completed]),
    ]
    parts = {
        "nearest": SQL["table_nearest"],
        "first": SQL["table_ranked" if half else "table_walk"],
        "walk": SQL["table_walk"],
        "candidates": "" if search.exactly else SQL["table_by_index"],
        "found_rows": " union all ".join(steps),
        "by_text": SQL["table_by_text"],
        "passage": SQL["table_passage"],
        "passage_columns": PASSAGE_COLUMNS,
        "small": small,
        "index_settings": _index_settings(search),
        "fused": FUSED[search.fusion],
        "vector_weight": f"{VECTOR_WEIGHT}::float8",
        "text_weight": f"{1 - VECTOR_WEIGHT}::float8",
        "rank_constant": str(RANK_CONSTANT),
        "top_k": str(search.top_k),
        "depth": str(depth),
        # A walk that continues after its first ef_search chunks returns chunks in a rough order, so more are fetched than are wanted.
        "fetched": str(max((2 if half else 1) * depth, 0 if search.relies_on_index else enough)),
        "enough": str(enough),
        "text_depth": str(search.top_k if search.mode == "text" else depth),
        "exact_rows": str(search.exact_rows),
        "completed_rows": str(COMPLETING * max(search.exact_rows, 1_000)),
        "most_chunks": str(MOST_CHUNKS),
        "chunks": f"${3 if search.mode == 'text' else 5}::bigint",
        "question": f"${2 if search.mode == 'text' else 3}::text",
        "filter": search.filter,
        "and_vector": ", c.embedding" if search.with_vectors else "",
    }
    names = shape.names(search.first_setting)
    if not search.with_vectors:
        names["and_embedding"] = ""
    return _filled(SQL["table_first" if search.relies_on_index else f"table_{search.mode}"], parts, names)


def _index_settings(search: TableSearch) -> str:
    index = search.shape.index
    if index is None or search.exactly:
        return ""
    iterative = "off" if search.relies_on_index else "relaxed_order"
    if index.method == "ivfflat":
        return f", set_config('ivfflat.iterative_scan', '{iterative}', true) as iterative_scan"
    ef_search = max(search.ef_search, min(search.top_k, 1_000))
    return (
        f", set_config('hnsw.ef_search', '{ef_search}', true) as ef_search"
        f", set_config('hnsw.iterative_scan', '{iterative}', true) as iterative_scan"
        f", set_config('hnsw.max_scan_tuples', '{SCAN_TUPLES}', true) as scan_tuples"
    )


def _filled(text: str, parts: Mapping[str, str], names: Mapping[str, str]) -> str:
    """Fill in the parts until none is left, then the names, in one pass."""
    while (more := filled(text, parts)) != text:
        text = more
    return filled(text, names)

"""Compose the statements of searches from the parts in `sql/`: comparing vectors, comparing words, and fusing both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ragcore.protocols import Query
from ragcore.store.fusion import DEPTH, RANK_CONSTANT, RERANKED, VECTOR_WEIGHT
from ragcore.store.postgres.conditions import Conditions
from ragcore.store.postgres.index import IndexKind, partition_name, sort_expression
from ragcore.store.postgres.statements import SQL, filled, literal, quoted
from ragcore.types import Fusion, Mode

__all__ = ["Search", "adjacent_statement", "chunks_statement", "function_placeholders", "statement_of"]

# A tenant is scanned exactly if its rows times the dimensions are at most this number. Such a scan takes about 10 ms and finds all chunks; the index takes
# 1 to 2 ms and may miss some.
EXACT_NUMBERS = 2_000_000
# If the index returns too few chunks, an exact scan completes them. It reads at most this many times the rows of a small tenant.
COMPLETING = 20
# Largest number of chunks that a walk through the index checks; beyond that, an exact scan is faster.
SCAN_TUPLES = 8_000
# With more dimensions than this, a vector and a long text may not fit into one row together, and the function `is_of` is needed. With fewer dimensions, the
# function is not used, because it would reduce the throughput by a fifth.
LARGE = 1_000
OWN = "case when tenant = s.tenant then true else false end"
OWN_LARGE = "{schema}.is_of(tenant, s.tenant)"
# A walk through the index returns this many times the wanted number of passages. If it ends earlier, because it has checked `SCAN_TUPLES` chunks, it may have
# missed the nearest: beside 10,000 nearer chunks of another tenant, a walk found 4 to 37 chunks, and one in ten of the right ones.
FETCHED = 10
# In a binary index, a search compares the whole vectors of at least this many times the wanted number of passages. docs/how-to/indexes.md has the measurements.
OVERSAMPLING = 20
# Largest number of candidates of a search in a binary index, except if more passages are wanted.
MOST_CANDIDATES = 1_000
# Number of postings that are read for each word. docs/explanation/text-search.md has the measurements.
LISTED = 2_000
# Text search counts at most this many chunks of a tenant for the weight of a word, and scans at most this many.
MOST_CHUNKS = 1_000_000
# The number of the partition that holds a tenant's chunks.
PART = """(
    select n from generate_series(0, {partitions} - 1) as n
    where satisfies_hash_partition({chunk_literal}::regclass, {partitions}, n, {tenant}) limit 1
)"""
PASSAGE_COLUMNS = "id, document_id, text, title, source, start_char, end_char, metadata"
PART_OF_TABLE = """(
    select * from {schema}.chunk
    where {condition}tenant = s.tenant and embedding is not null {filter}
    limit {completed_rows}
) as chunk"""
TOO_FEW = (
    "coalesce((select max(found) from by_index where by_index.tenant = s.tenant), 0::bigint) < {enough}::bigint and "
)
# Settings of a walk that continues until it has found enough chunks of the tenant.
WALK_SETTINGS = """,
           set_config('hnsw.iterative_scan', 'relaxed_order', true) as iterative_scan,
           set_config('hnsw.max_scan_tuples', '{scan_tuples}', true) as scan_tuples"""
# The order of a hybrid search, by the values of the query's `fusion`. `store.fusion` has the same formulas.
FUSED = {
    "score": """{vector_weight} * case
        when scored.score is null then 0::float8
        when bound.highest > bound.lowest then (scored.score - bound.lowest) / (bound.highest - bound.lowest)
        else 1::float8
    end + {text_weight} * coalesce(scored.text_score / nullif(bound.best_text, 0::float8), 0::float8)""",
    "rank": "coalesce(1::float8 / ({rank_constant}::bigint + scored.vector_rank)::float8, 0::float8)"
    " + coalesce(1::float8 / ({rank_constant}::bigint + scored.text_rank)::float8, 0::float8)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The values that determine the text of a search statement.

    Attributes:
        mode: mode of the query.
        schema, vector_schema: schema of the collection, and schema of pgvector.
        top_k: largest number of passages.
        dimension: dimension of the vector; 0 in mode "text".
        kind: kind of the collection's index.
        partitions: number of partitions of the chunks; 0 if there are none.
        exactly: whether to compare all of the tenant's vectors. None: the statement counts them first.
        exact_rows: largest number of chunks that are compared exactly.
        ef_search: breadth of the index search.
        scans_text: whether text search scans the tenant's chunks, because the postings are not complete.
        filter: a condition that begins with "and", or "".
        fusion: how mode "hybrid" joins both rankings.
        with_vectors: whether the rows have the chunks' vectors.
        shares: number of the parameter with the shared tenants; None if there are none.
    """

    mode: Mode
    schema: str
    vector_schema: str
    top_k: int
    dimension: int
    kind: IndexKind
    partitions: int
    exactly: bool | None
    exact_rows: int
    ef_search: int
    scans_text: bool
    filter: str
    fusion: Fusion
    with_vectors: bool
    shares: int | None

    def sql(self) -> str:
        """Return the statement.

        Its parameters are tenant, vector, question, threshold, the estimated number of the tenant's chunks (null: the statement counts them; with
        shared tenants, an array of the numbers of all), and the shared tenants. A search leaves out those that it does not use. The filter's
        parameters follow.
        """
        return _compose(self)


def statement_of(
    query: Query,
    *,
    schema: str,
    vector_schema: str,
    kind: IndexKind,
    partitions: int,
    exactly: bool | None,
    exact_rows: int | None,
    ef_search: int,
    chunks: Sequence[float | None],
    scans_text: bool,
    hides_expired: bool,
) -> tuple[str, list[object]]:
    """Return the statement of a query, and the values of its parameters.

    Args:
        query: the query; with a vector unless its mode is "text".
        schema: schema of the collection.
        vector_schema: schema of pgvector.
        kind: kind of the collection's index. With "none", all of the tenant's vectors are compared.
        partitions: number of partitions of the chunks; 0 if there are none.
        exactly: whether to compare all of the tenant's vectors. None: the statement counts them first.
        exact_rows: as in `PgVectorStore`.
        ef_search: breadth of the index search.
        chunks: estimated numbers of chunks of the tenant and of each shared tenant. None: the statement counts them.
        scans_text: whether text search scans the tenant's chunks, because the postings are not complete.
        hides_expired: whether the tenant has expired chunks, which must not be found.
    """
    # The values are in the order in which `Search.sql` numbers them.
    values: list[object] = [query.tenant]
    if query.mode != "text":
        values.append(query.vector)
    if query.mode != "vector":
        values.append(query.question)
    if query.mode == "hybrid":
        values.append(query.score_threshold)
    if query.mode != "vector":
        sizes = [None if number is None else round(number) for number in chunks]
        values.append(sizes if query.shared else sizes[0])
    if query.shared:
        values.append(list(query.shared))
    shares = len(values) if query.shared else None
    conditions = Conditions(query.filter, taken=len(values))
    dimension = 0 if query.vector is None else len(query.vector)
    search = Search(
        mode=query.mode,
        schema=schema,
        vector_schema=vector_schema,
        top_k=query.top_k,
        dimension=dimension,
        kind=kind,
        partitions=partitions,
        exactly=True if kind == "none" else exactly,
        exact_rows=EXACT_NUMBERS // max(dimension, 1) if exact_rows is None else exact_rows,
        ef_search=ef_search,
        scans_text=scans_text,
        # Hiding expired rows needs the statement for filtered searches. Without a filter of the caller, a condition that is always true selects it.
        filter=conditions.sql or ("and true" if hides_expired else ""),
        fusion=query.fusion,
        with_vectors=query.with_vectors,
        shares=shares,
    )
    return search.sql(), [*values, *conditions.values]


def function_placeholders(dimension: int, kind: IndexKind, partitions: int) -> dict[str, str]:
    """Return the placeholders of `sql/nearest_further`. In this function, $1 is the tenant and $2 the vector."""
    own = OWN_LARGE if dimension >= LARGE else OWN
    enough = f"{FETCHED}::bigint * depth"
    return {
        "own_in_function": own.replace("s.tenant", "$1"),
        "indexed_in_function": sort_expression(kind),
        # A text that ends within the function's own text, so that the number of the partition is put into it.
        "chunks_in_function": f"{{schema}}.{partition_name('chunk', 0)[:-1]}' || part || '"
        if partitions
        else "{schema}.chunk",
        "part_in_function": PART.replace("{tenant}", "of_tenant").replace("{partitions}", str(partitions))
        if partitions
        else "0",
        "enough_in_function": enough,
        "fetched_in_function": f"greatest({enough}, least({OVERSAMPLING} * depth, {MOST_CANDIDATES}))"
        if kind == "binary"
        else enough,
    }


@lru_cache(maxsize=16)
def adjacent_statement(*, schema: str) -> str:
    """Return the statement that reads the chunks around some chunks."""
    placeholders = {
        **_shared_placeholders(5),
        "passage_columns": PASSAGE_COLUMNS,
        "schema": quoted(schema),
    }
    return _filled(SQL["adjacent"], placeholders)


@lru_cache(maxsize=64)
def chunks_statement(by: Literal["document", "id"], *, schema: str, with_vectors: bool) -> str:
    """Return the statement that reads the chunks of a document, or the chunks with given ids."""
    columns = f"{PASSAGE_COLUMNS}, embedding" if with_vectors else PASSAGE_COLUMNS
    return _filled(
        SQL["document_chunks" if by == "document" else "chunks_by_id"],
        {"passage_columns": columns, "schema": quoted(schema)},
    )


def _shared_placeholders(parameter: int | None) -> dict[str, str]:
    """Return the placeholders for the tenants of a search. `parameter` is the number of the parameter with the shared tenants; None: there are none."""
    if parameter is None:
        return {
            "tenants": SQL["tenants"],
            "each_tenant": "select settings.tenant, 1 as nth",
            "search_shared": "null::text[]",
            "shared": "null::text",
        }
    return {
        "tenants": SQL["tenants_with_shared"],
        "each_tenant": "select * from unnest(settings.tenant || settings.shared) with ordinality as every (tenant, nth)",
        "search_shared": f"{{schema}}.search_shared(${parameter}::text[])",
        "shared": "nullif(tenant, $1::text)",
    }


@lru_cache(maxsize=1024)
def _compose(search: Search) -> str:
    depth = max(DEPTH, search.top_k) if search.mode == "hybrid" else search.top_k
    enough = max(FETCHED * search.top_k, depth)
    fetched = _fetched(search, depth=depth, enough=enough)
    ef_search = max(search.ef_search, min(fetched if search.kind == "binary" else search.top_k, 1_000))
    nearest = {None: "nearest_unknown", True: "nearest_exact", False: "nearest_index"}[search.exactly]
    chunks, known_sizes = f"${3 if search.mode == 'text' else 5}::bigint", "array[(select chunks from size)]"
    if search.scans_text:  # the statement must mention each parameter
        known_sizes = f"(select null::float8[] where {chunks}{'' if search.shares is None else '[]'} is null)"
    elif search.shares is not None:
        known_sizes = "(select array_agg(size.chunks order by s.nth) from s join size using (tenant))"
    if search.shares is not None:
        chunks = f"({chunks}[])[s.nth]"
    small, large = ("s.small and ", "not s.small and ") if search.exactly is None else ("", "")
    and_embedding = ", embedding" if search.with_vectors else ""
    exactly, by_index = SQL["nearest_exactly"], _by_index(search, large)
    # In the statement that counts first, the tenants are those of a subquery.
    of = "$1::text" if search.exactly is False else "t.tenant"
    part = filled(PART, {"tenant": of, "partitions": str(search.partitions)})
    placeholders = {
        "nearest": SQL[nearest],
        "exactly": filled(exactly, {"condition": small, "rows": "{schema}.chunk"}),
        "by_index": by_index,
        "walking": SQL["nearest_walking"],
        # The candidates of a binary index are sorted by their whole vectors on the server, because there are many.
        "first_of_index": SQL["nearest_walking"] if search.kind == "binary" else by_index,
        "part": f",\n           {part} as part" if search.partitions else "",
        "walk_settings": WALK_SETTINGS if search.kind == "binary" else "",
        "completing": filled(filled(exactly, {"rows": PART_OF_TABLE}), {"condition": large + TOO_FEW}),
        "by_text": SQL["by_text_scanning" if search.scans_text else "by_text"],
        **_shared_placeholders(search.shares),
        "passage_columns": PASSAGE_COLUMNS,
        "columns": (PASSAGE_COLUMNS + and_embedding) if search.mode == "vector" else "id",
        "and_embedding": and_embedding,
        "fused": FUSED[search.fusion],
        "vector_weight": f"{VECTOR_WEIGHT}::float8",
        "text_weight": f"{1 - VECTOR_WEIGHT}::float8",
        "own": OWN_LARGE if search.dimension >= LARGE else OWN,
        "indexed": sort_expression(search.kind),
        # Limits are part of the text and not parameters: the generic plan for a parameter would assume that a tenth of the rows is wanted.
        "top_k": str(search.top_k),
        "depth": str(depth),
        "fetched": str(fetched),
        "enough": str(enough),
        "text_depth": str(search.top_k if search.mode == "text" else depth),
        "ef_search": str(ef_search),
        "scan_tuples": str(SCAN_TUPLES),
        "exact_rows": str(search.exact_rows),
        "completed_rows": str(COMPLETING * max(search.exact_rows, 1_000)),
        "dimension": str(search.dimension),
        "rank_constant": str(RANK_CONSTANT),
        "listed": str(LISTED),
        "reranked": str(max(RERANKED, 5 * search.top_k)),
        "most_chunks": str(MOST_CHUNKS),
        "chunks": chunks,
        "known_sizes": known_sizes,
        "candidates_limit": "" if search.filter else "limit {reranked}",
        "completing_text": SQL["completing_text"] if search.filter else "",
        "weighed": "all_weighed" if search.filter else "weighed",
        "question": f"${2 if search.mode == 'text' else 3}::text",
        "filter": search.filter,
        "schema": quoted(search.schema),
        "chunk_literal": literal(f"{quoted(search.schema)}.chunk"),
        "vector": quoted(search.vector_schema),
    }
    return _filled(SQL[search.mode], placeholders)


def _by_index(search: Search, condition: str) -> str:
    """Return the part that walks through the index.

    Each partition has its own index. All are in the statement, and PostgreSQL reads the one of the tenant: the condition on `s.part` is checked once, before
    the others. A condition on the parent's tenant would not do: PostgreSQL could then sort the rows of the tenant's index instead.
    """
    one = SQL["nearest_by_index"]
    if not search.partitions:
        return filled(one, {"condition": condition, "walked": "{schema}.chunk"})
    parts = (
        filled(
            one,
            {
                "condition": f"s.part = {number} and {condition}",
                "walked": f"{{schema}}.{partition_name('chunk', number)}",
            },
        )
        for number in range(search.partitions)
    )
    return " union all ".join(f"({part})" for part in parts)


def _fetched(search: Search, *, depth: int, enough: int) -> int:
    """Return the number of candidates that a search takes from the index, and ranks again in full precision.

    Half precision may confuse near neighbours, one bit for each dimension confuses many, and a walk through the index returns candidates in a rough order.
    """
    if search.kind == "binary":
        wanted = max(search.ef_search, OVERSAMPLING * search.top_k)
        return max(min(wanted, MOST_CANDIDATES), 2 * depth)
    if search.exactly is None:
        return enough
    return (2 if search.kind == "halfvec" else 1) * depth


def _filled(text: str, placeholders: Mapping[str, str]) -> str:
    while (more := filled(text, placeholders)) != text:  # parts may contain placeholders themselves
        text = more
    return text

"""The statements of searches, composed of the parts in `sql/`: how vectors are compared, how words are, and how both are fused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ragcore.protocols import Query
from ragcore.store.fusion import RANK_CONSTANT
from ragcore.store.postgres.conditions import Conditions
from ragcore.store.postgres.inspection import MOST_INDEXED, MOST_INDEXED_WHOLE
from ragcore.store.postgres.statements import SQL, filled, quoted
from ragcore.types import Mode

__all__ = ["Search", "statement_of", "words_of_function"]

# Rows times dimensions: up to here an exact scan of a tenant's rows takes some 10 ms, which finding everything is worth; the index takes 1 to 2.
EXACT_NUMBERS = 2_000_000
# Where the index gives too few, an exact scan of at most so many times the rows of a small tenant completes them.
COMPLETING = 20
# Chunks that a walk through the index looks at before an exact scan is quicker.
SCAN_TUPLES = 8_000
# Dimensions from which a row may not hold its vector beside a long text; the function costs a fifth of the searches a second of small ones.
LARGE = 1_000
OWN = "case when tenant = s.tenant then true else false end"
OWN_LARGE = "{schema}.is_of(tenant, s.tenant)"
# What the index is on, word for word, or it is not used.
WHOLE = "embedding operator({vector}.<=>) $2"
HALF = (
    "embedding::{vector}.halfvec({dimension}) operator({vector}.<=>) $2::{vector}.vector::{vector}.halfvec({dimension})"
)
# So many times the passages that are wanted come from the index.
FETCHED = 10
# Of each word so many postings are read, and so many chunks are ranked by all words. Measured: docs/explanation/text-search.md.
LISTED = 2_000
RERANKED = 200
# More chunks than that need not be told apart by a word's weight, nor are they scanned.
MOST_CHUNKS = 1_000_000
PASSAGE_COLUMNS = "id, document_id, text, title, source, start_char, end_char, metadata"
PART_OF_TABLE = """(
    select * from {schema}.chunk
    where {condition}tenant = s.tenant and embedding is not null {filter}
    limit {completed_rows}
) as chunk"""
TOO_FEW = "(select count(*) from by_index) < {depth}::bigint and "


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a search statement depends on, besides the values of its parameters.

    Attributes:
        mode: of the query.
        schema, vector_schema: the collection's, and pgvector's.
        top_k: passages.
        dimension: of the vector; 0 in mode "text".
        exactly: whether to compare all of the tenant's vectors; None: count them first.
        exact_rows: up to so many are compared exactly.
        ef_search: how widely the index is searched.
        scans_text: whether text search scans the tenant's chunks, the postings not being complete.
        filter: a condition, beginning with "and", or "".
    """

    mode: Mode
    schema: str
    vector_schema: str
    top_k: int
    dimension: int
    exactly: bool | None
    exact_rows: int
    ef_search: int
    scans_text: bool
    filter: str

    def sql(self) -> str:
        """The statement: its parameters are tenant, vector, question, threshold and about how many chunks the tenant
        has (null: counted), as far as the mode has them, then the filter's."""
        return _compose(self)


def statement_of(
    query: Query,
    *,
    schema: str,
    vector_schema: str,
    exactly: bool | None,
    exact_rows: int | None,
    ef_search: int,
    chunks: float | None,
    scans_text: bool,
    hides_expired: bool,
) -> tuple[str, list[object]]:
    """The statement of a query, and the values of its parameters.

    Args:
        query: with a vector unless its mode is "text".
        schema: the collection's.
        vector_schema: pgvector's.
        exactly: as in `Search`, as are `ef_search` and `scans_text`.
        exact_rows: None: as many as hold 2 million numbers.
        ef_search: how widely the index is searched.
        chunks: about how many the tenant has; None: they are counted.
        scans_text: whether the postings are not complete.
        hides_expired: whether the tenant has chunks that nobody may find.
    """
    # In the order in which `Search.sql` numbers them.
    values: list[object] = [query.tenant]
    if query.mode != "text":
        values.append(query.vector)
    if query.mode != "vector":
        values.append(query.question)
    if query.mode == "hybrid":
        values.append(query.score_threshold)
    if query.mode != "vector":
        values.append(None if chunks is None else round(chunks))
    conditions = Conditions(query.filter, taken=len(values))
    dimension = 0 if query.vector is None else len(query.vector)
    search = Search(
        mode=query.mode,
        schema=schema,
        vector_schema=vector_schema,
        top_k=query.top_k,
        dimension=dimension,
        exactly=exactly,
        exact_rows=EXACT_NUMBERS // max(dimension, 1) if exact_rows is None else exact_rows,
        ef_search=ef_search,
        scans_text=scans_text,
        # A condition that is always true makes it a search with a filter.
        filter=conditions.sql or ("and true" if hides_expired else ""),
    )
    return search.sql(), [*values, *conditions.values]


def words_of_function(dimension: int) -> dict[str, str]:
    """How a function of the schema names the tenant and the index, whose parameters are $1 and $2."""
    half = MOST_INDEXED_WHOLE < dimension <= MOST_INDEXED
    own = OWN_LARGE if dimension >= LARGE else OWN
    return {
        "own_in_function": own.replace("s.tenant", "$1"),
        "indexed_in_function": HALF.replace("::{vector}.vector::", "::") if half else WHOLE,
    }


@lru_cache(maxsize=1024)
def _compose(search: Search) -> str:
    depth = max(4 * search.top_k, 40) if search.mode == "hybrid" else search.top_k
    half = MOST_INDEXED_WHOLE < search.dimension <= MOST_INDEXED
    nearest = {None: "nearest_unknown", True: "nearest_exact", False: "nearest_index"}[search.exactly]
    small, large = ("s.small and ", "not s.small and ") if search.exactly is None else ("", "")
    exactly, by_index = SQL["nearest_exactly"], SQL["nearest_by_index"]
    words = {
        "nearest": SQL[nearest],
        "exactly": filled(exactly, {"condition": small, "rows": "{schema}.chunk"}),
        "by_index": filled(by_index, {"condition": large}),
        "walking": SQL["nearest_walking"],
        "completing": filled(filled(exactly, {"rows": PART_OF_TABLE}), {"condition": large + TOO_FEW}),
        "by_text": SQL["by_text_scanning" if search.scans_text else "by_text"],
        "columns": PASSAGE_COLUMNS if search.mode == "vector" else "id",
        "own": OWN_LARGE if search.dimension >= LARGE else OWN,
        "indexed": HALF if half else WHOLE,
        # Numbers are written out: of a parameter the planner, making one plan for all values, would think that a tenth of the rows is wanted.
        "top_k": str(search.top_k),
        "depth": str(depth),
        # Half precision may confuse neighbours, and a walk gives them in a rough order: whole precision then ranks them.
        "fetched": str((2 if half else 1) * depth if search.exactly is False else max(FETCHED * search.top_k, depth)),
        "text_depth": str(search.top_k if search.mode == "text" else depth),
        "ef_search": str(max(search.ef_search, min(search.top_k, 1_000))),
        "scan_tuples": str(SCAN_TUPLES),
        "exact_rows": str(search.exact_rows),
        "completed_rows": str(COMPLETING * max(search.exact_rows, 1_000)),
        "dimension": str(search.dimension),
        "rank_constant": str(RANK_CONSTANT),
        "listed": str(LISTED),
        "reranked": str(max(RERANKED, 5 * search.top_k)),
        "most_chunks": str(MOST_CHUNKS),
        "chunks": f"${3 if search.mode == 'text' else 5}::bigint",
        "known_size": "null::float8" if search.scans_text else "(select chunks from size)",
        "candidates_limit": "" if search.filter else "limit {reranked}",
        "completing_text": SQL["completing_text"] if search.filter else "",
        "weighed": "all_weighed" if search.filter else "weighed",
        "question": f"${2 if search.mode == 'text' else 3}::text",
        "filter": search.filter,
        "schema": quoted(search.schema),
        "vector": quoted(search.vector_schema),
    }
    text = SQL[search.mode]
    while (more := filled(text, words)) != text:  # parts hold words themselves
        text = more
    return text

"""The sentence of `ragcore doctor` about the index of the vectors: what was measured, and the command to run."""

from __future__ import annotations

from typing import Literal

from ragcore.store.postgres import Inspection, Recall

__all__ = ["recommendation"]

# Below this recall, a search misses more than one in twenty of the nearest chunks.
LEAST_RECALL = 0.95
MOST_EF_SEARCH = 1_000
# The graph of pgvector takes about this many bytes for each chunk beside the vector: neighbours, tuple headers, and page ends.
GRAPH_BYTES = 400


def recommendation(found: Inspection, measured: Recall, *, ef_search: int) -> tuple[Literal["ok", "warning"], str]:
    """Return the status and the message.

    Args:
        found: the inspection of the database.
        measured: the measured recall.
        ef_search: the store's `ef_search`.
    """
    kind, schema = found.index_kind, found.schema
    rows, dimension = found.about_chunks or 0, found.dimension or 0
    said = _measured(found, measured)
    command = f"ragcore --schema {schema} index"
    if kind != "none" and not found.has_index:
        return "warning", f"{said}: as the owner, run `{command}`"
    recall = measured.indexed_recall
    if recall is not None and recall < LEAST_RECALL:
        if ef_search < MOST_EF_SEARCH:
            return "warning", f"{said}: set RAGCORE_EF_SEARCH={min(2 * ef_search, MOST_EF_SEARCH)}, and measure again"
        return "warning", f"{said}: as the owner, run `{command} --m 32 --ef-construction 128`"
    if kind == "none" and measured.exact_ms is None and rows * dimension > 20_000_000 and dimension <= 64_000:
        smaller = "halfvec" if dimension <= 4_000 else "binary"
        return "warning", (
            f"{said}; an exact search reads all vectors of the tenant: if searches of large tenants are too slow, run `{command} --kind {smaller}` as the owner"
        )
    cache = found.shared_buffers
    if (
        cache is not None
        and found.index_bytes is not None
        and found.index_bytes > cache
        and kind in ("vector", "halfvec")
    ):
        smaller = "halfvec" if kind == "vector" else "binary"
        return "warning", (
            f"{said}; the index is larger than the server's cache (shared_buffers {_megabytes(cache)}): raise shared_buffers, or, as the owner, run "
            f"`{command} --kind {smaller}`, whose index is smaller"
        )
    memory = found.maintenance_work_mem
    needed = rows * (found_bytes(kind, dimension) + GRAPH_BYTES)
    if kind != "none" and memory is not None and needed > memory:
        return "ok", (
            f"{said}; building it again needs about {_megabytes(needed)} of memory to be fast (maintenance_work_mem is {_megabytes(memory)}): "
            f"run `{command} --memory {max(1, round(needed / 2**30 + 0.5))}GB`"
        )
    return "ok", said


def found_bytes(kind: str, dimension: int) -> int:
    """Return the bytes of a vector in an index of this kind."""
    return {"vector": 4 * dimension, "halfvec": 2 * dimension, "binary": dimension // 8}.get(kind, 0)


def _measured(found: Inspection, measured: Recall) -> str:
    rows = "an unknown number of chunks" if found.about_chunks is None else f"about {found.about_chunks:,} chunks"
    size = "no index" if found.index_bytes is None else _megabytes(found.index_bytes)
    said = f"kind {found.index_kind}, {rows} of {found.dimension} dimensions, {size}"
    if measured.recall is None:
        return f"{said}; no chunk to measure its recall with"
    if measured.indexed_recall is None:
        return f"{said}; all {measured.samples} searches that were tried are exact"
    return (
        f"{said}; recall@{measured.top_k} {measured.indexed_recall:.3f} in {measured.samples - measured.exact} searches, "
        f"{measured.index_ms or 0:.1f} ms instead of {measured.exact_ms or 0:.1f} ms"
    )


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"

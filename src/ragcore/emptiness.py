"""Why a search found nothing: which of the possible reasons it is, with the numbers."""

from __future__ import annotations

import math

from ragcore.errors import ConfigurationError, Overloaded, StoreError, Unsupported
from ragcore.protocols import Query, Searcher, Store
from ragcore.types import EmptyReason

__all__ = ["explain_empty"]

# Unrelated texts of one model score around 0 with a deviation of 1/√d: over many chunks, a best score below four deviations is chance.
CHANCE_DEVIATIONS = 4.0
MANY_CHUNKS = 100


async def explain_empty(store: Searcher, query: Query, /) -> EmptyReason:
    """Why `query` found nothing. The result stands whether it can be told or not, so what fails here is only said."""
    if not isinstance(store, Store):
        return EmptyReason("unknown", f"nothing was found; {type(store).__name__} can't say why")
    try:
        return await _reason(store, query)
    except Overloaded:
        raise
    except Exception as error:  # a store of the user's may raise anything
        return EmptyReason("unknown", f"nothing was found, and the store could not say why ({type(error).__name__})")


async def _reason(store: Store, query: Query) -> EmptyReason:
    counts = await store.count(tenant=query.tenant)
    chunks = counts.chunks
    if chunks == 0:
        everywhere = await _count_all(store)
        others = "" if everywhere is None else f"; the store has {everywhere:,} chunks for all tenants"
        message = f"this tenant has no documents{others}: add some, or check the tenant's name"
        return EmptyReason("no_chunks", message, tenant_chunks=0, store_chunks=everywhere)
    of_all = f"none of the tenant's {chunks:,} chunks"
    if query.vector is None:
        if query.filter is not None:
            message = f"{of_all} has a word of the question and matches the filter"
            return EmptyReason("filtered_out", message, tenant_chunks=chunks)
        return EmptyReason("unknown", f"{of_all} has a word of the question", tenant_chunks=chunks)
    if counts.not_embedded == chunks:
        return EmptyReason("not_embedded", f"{of_all} is embedded: add the documents again", tenant_chunks=chunks)
    scores = (await store.scores(query.vector, tenant=query.tenant, limit=1)).scores
    if not len(scores):
        return EmptyReason(
            "other_model", f"{of_all} has a usable vector: add the documents again", tenant_chunks=chunks
        )
    return _judge(query, chunks, float(scores[0]), dimension=len(query.vector))


def _judge(query: Query, chunks: int, best: float, *, dimension: int) -> EmptyReason:
    of_all = f"none of the tenant's {chunks:,} chunks"
    chance = CHANCE_DEVIATIONS / math.sqrt(dimension)
    if chunks >= MANY_CHUNKS and best < chance:
        message = (
            f"the best of the tenant's {chunks:,} chunks scores {best:.2f}, no better than chance ({chance:.2f}): "
            "were they embedded with another model?"
        )
        return EmptyReason("other_model", message, best_score=best, tenant_chunks=chunks)
    if query.score_threshold is not None and best < query.score_threshold:
        message = f"{of_all} reaches the threshold {query.score_threshold:g}; the best scores {best:.2f}"
        return EmptyReason("below_threshold", message, best_score=best, tenant_chunks=chunks)
    if query.filter is not None:
        message = f"{of_all} matches the filter" + (
            "" if query.score_threshold is None else " and reaches the threshold"
        )
        return EmptyReason("filtered_out", message, best_score=best, tenant_chunks=chunks)
    return EmptyReason(
        "unknown", f"nothing was found among the tenant's {chunks:,} chunks", best_score=best, tenant_chunks=chunks
    )


async def _count_all(store: Store) -> int | None:
    try:
        return (await store.count(tenant=None)).chunks
    except (Unsupported, StoreError, ConfigurationError):
        return None

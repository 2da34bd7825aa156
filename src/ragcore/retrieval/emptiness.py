"""Explain why a search found nothing, with the numbers."""

from __future__ import annotations

from ragcore.compat.ability import offers
from ragcore.errors import ConfigurationError, DeadlineExceeded, StoreError, Unsupported
from ragcore.protocols import Diagnosis, Diagnostician, Found, Query, Searcher, Store
from ragcore.resilience.deadline import deadline, share
from ragcore.types import EmptyReason

__all__ = ["explain_empty"]

# The search itself has succeeded, so its explanation may take one second, and only a part of the caller's remaining time.
EXPLAIN_SECONDS = 1.0
EXPLAIN_SHARE = 0.25


async def explain_empty(store: Searcher, query: Query, found: Found, /) -> EmptyReason:
    """Return the reason why `query` found nothing. Never fails the search: an error becomes part of the message."""
    below = _below_threshold(query, found.best_score)
    if below is not None:
        return below
    seconds = share(EXPLAIN_SHARE, most=EXPLAIN_SECONDS)
    try:
        with deadline(max(seconds, 0.001)):
            return await _reason(store, query, found)
    except DeadlineExceeded:
        return EmptyReason("unknown", f"nothing was found; the store gave no reason within {seconds:.2f} s")
    except Exception as error:  # a user's own store may raise anything
        return EmptyReason("unknown", f"nothing was found; the store failed to give a reason ({type(error).__name__})")


def _below_threshold(query: Query, best: float | None, chunks: int | None = None) -> EmptyReason | None:
    if best is None or query.score_threshold is None or best >= query.score_threshold:
        return None
    of_all = "none of the tenant's chunks" if chunks is None else f"none of the tenant's {chunks:,} chunks"
    matching = "" if query.filter is None else " that match the filter"
    message = f"{of_all}{matching} reaches the threshold {query.score_threshold:g}; the best scores {best:.2f}"
    return EmptyReason("below_threshold", message, best_score=best, tenant_chunks=chunks)


async def _reason(store: Searcher, query: Query, found: Found) -> EmptyReason:
    known = await _diagnose(store, query)
    if known is None:
        return EmptyReason("unknown", f"nothing was found; {type(store).__name__} can't give a reason")
    chunks = known.chunks
    if chunks == 0:
        others = "" if known.store_chunks is None else f"; the store has {known.store_chunks:,} chunks for all tenants"
        message = f"this tenant has no documents{others}: add some, or check the tenant's name"
        return EmptyReason("no_chunks", message, tenant_chunks=0, store_chunks=known.store_chunks)
    of_all = f"none of the tenant's {chunks:,} chunks"
    if query.vector is None:
        if query.filter is not None:
            message = f"{of_all} has a word of the question and matches the filter"
            return EmptyReason("filtered_out", message, tenant_chunks=chunks)
        return EmptyReason("unknown", f"{of_all} has a word of the question", tenant_chunks=chunks)
    if known.not_embedded == chunks:
        return EmptyReason("not_embedded", f"{of_all} is embedded: add the documents again", tenant_chunks=chunks)
    best = found.best_score
    if best is None and query.filter is None and offers(store, Store):
        best = await _best_score(store, query)
        below = _below_threshold(query, best, chunks)
        if below is not None:
            return below
    if query.model is not None and known.models and query.model not in known.models:
        message = (
            f"the tenant's documents were embedded with {', '.join(known.models)}, and the question with {query.model}: "
            "vectors of two models can't be compared; use one model, or add the documents again"
        )
        return EmptyReason("other_model", message, best_score=best, tenant_chunks=chunks)
    if query.filter is not None:
        reached = "" if query.score_threshold is None else " and reaches the threshold"
        return EmptyReason(
            "filtered_out", f"{of_all} matches the filter{reached}", best_score=best, tenant_chunks=chunks
        )
    if best is None:
        return EmptyReason(
            "other_model", f"{of_all} has a usable vector: add the documents again", tenant_chunks=chunks
        )
    message = f"nothing was found among the tenant's {chunks:,} chunks"
    return EmptyReason("unknown", message, best_score=best, tenant_chunks=chunks)


async def _diagnose(store: Searcher, query: Query) -> Diagnosis | None:
    if offers(store, Diagnostician):
        return await store.diagnose(query)
    if not offers(store, Store):
        return None
    counts = await store.count(tenant=query.tenant)
    everywhere = None if counts.chunks else await _count_all(store)
    return Diagnosis(chunks=counts.chunks, not_embedded=counts.not_embedded, store_chunks=everywhere)


async def _best_score(store: Store, query: Query) -> float | None:
    """Return the best score, for stores whose search doesn't report it."""
    assert query.vector is not None
    scores = (await store.scores(query.vector, tenant=query.tenant, limit=1)).scores
    return float(scores[0]) if len(scores) else None


async def _count_all(store: Store) -> int | None:
    try:
        return (await store.count(tenant=None)).chunks
    except (Unsupported, StoreError, ConfigurationError):
        return None

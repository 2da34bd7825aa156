"""Search a store for the passages of a plan: check what the store returns, and refine it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np

from ragcore.compat.ability import offers
from ragcore.errors import RagcoreError, StoreError, Unsupported
from ragcore.protocols import AdjacentChunks, Found, Query, Searcher, SharingStore
from ragcore.retrieval.diversity import diversified
from ragcore.retrieval.duplicates import without_duplicates
from ragcore.retrieval.neighbours import merged
from ragcore.retrieval.plan import Plan
from ragcore.types import Passage
from ragcore.types.validation import MAX_TOP_K

__all__ = ["PassageSearch"]

# If duplicates take the places of other passages, a second search asks for this many times the number.
REFILL = 4


class PassageSearch:
    """Searches a store. All errors of the store become `StoreError`."""

    def __init__(self, store: Searcher) -> None:
        self._store = store

    async def find(self, plan: Plan, query: Query, *, other_mode: bool) -> tuple[Plan, Found, int]:
        """Return the plan with the mode that was used, the passages, and the number of duplicates that were left out.

        Args:
            plan: the plan of the search.
            query: its query.
            other_mode: whether to search by vector if the mode is only the default, and the store does not support hybrid search.

        Raises:
            Unsupported: the store does not support the mode, the filter, shared tenants or neighbours.
            StoreError: the store failed.
        """
        if plan.shared and not offers(self._store, SharingStore):
            raise Unsupported(f"{type(self._store).__name__} has no shared tenants: leave out `shared`", stage="search")
        try:
            found = await self.search(query)
        except Unsupported:
            if not (other_mode and plan.mode_is_default and query.mode == "hybrid"):
                raise
            plan, query = replace(plan, mode="vector"), replace(query, mode="vector")
            found = await self.search(query)
        kept = without_duplicates(found)
        if len(kept) < plan.top_k and len(kept) < len(found) == query.top_k < MAX_TOP_K:
            # Duplicates took the places of other passages. One larger search is enough unless a tenant has very many copies.
            found = await self.search(replace(query, top_k=min(REFILL * query.top_k, MAX_TOP_K)))
            kept = without_duplicates(found)
        if plan.diversity:
            vectors = None if found.vectors is None else [found.vectors[position] for position in kept]
            passages = [found[position] for position in kept]
            chosen = diversified(passages, vectors, top_k=plan.top_k, diversity=plan.diversity)
            kept = [kept[number] for number in chosen]
        kept = kept[: plan.top_k]
        best = [found[position] for position in kept]
        # Duplicates after the last returned passage don't count.
        repeats = set(range(max(kept, default=-1))) - set(kept)
        duplicates = 0 if plan.diversity else len(repeats)
        if plan.neighbours and best:
            best = await self._widened(best, plan)
        return plan, Found(best, best_score=found.best_score, scan=found.scan, degraded=found.degraded), duplicates

    async def search(self, query: Query) -> Found:
        """Return the passages of a query, checked."""
        async with self.errors():
            found = await self._store.search(query)
        passages = _checked(found, query)
        if isinstance(found, Found):
            vectors = found.vectors if found.vectors is None else found.vectors[: len(passages)]
            return Found(
                passages, best_score=found.best_score, scan=found.scan, vectors=vectors, degraded=found.degraded
            )
        return Found(passages)

    @asynccontextmanager
    async def errors(self) -> AsyncIterator[None]:
        """Turn exceptions of the store into `StoreError`."""
        try:
            yield
        except RagcoreError as error:
            error.stage = error.stage or "search"
            raise
        except Exception as error:
            name = type(self._store).__name__
            raise StoreError(
                f"the store {name} raised {type(error).__name__}", dependency=name, stage="search"
            ) from error

    async def _widened(self, passages: Sequence[Passage], plan: Plan) -> list[Passage]:
        store = self._store
        if not offers(store, AdjacentChunks):
            raise Unsupported(
                f"{type(store).__name__} can't return the chunks around a passage: leave out `neighbours`",
                stage="search",
            )
        async with self.errors():
            return merged(passages, await store.adjacent(passages, tenant=plan.tenant, distance=plan.neighbours))


def _checked(passages: Sequence[Passage], query: Query) -> tuple[Passage, ...]:
    """Check the passages, since a user's own searcher may return anything: at most top_k, and each score a finite number."""
    if not isinstance(passages, Sequence):
        raise StoreError(
            f"the store returned {type(passages).__name__}, not passages", dependency="store", stage="search"
        )
    found = tuple(passages)
    for passage in found:
        if not isinstance(passage, Passage):
            raise StoreError(
                f"the store returned {type(passage).__name__}, not a Passage", dependency="store", stage="search"
            )
        if passage.score is not None and not (
            isinstance(passage.score, int | float | np.floating) and math.isfinite(passage.score)
        ):
            raise StoreError(
                f"the store returned the score {passage.score!r} for chunk {passage.chunk_id!r}: it must be a finite number",
                dependency="store",
                stage="search",
            )
    return found[: query.top_k]

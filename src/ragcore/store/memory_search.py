"""Search the tenants of a `MemoryStore`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from ragcore.protocols import Found, Query
from ragcore.store.bm25 import rank
from ragcore.store.fusion import DEPTH, RERANKED, fused_scores, reciprocal_ranks
from ragcore.store.memory_tenant import Hit, MemoryTenant
from ragcore.text.lexemes import Language, lexemes

__all__ = ["by_score", "search_tenants"]

# The tenants of a search, each with its name. The name is None for the caller's own tenant.
Homes: TypeAlias = Sequence[tuple[str | None, MemoryTenant]]


def search_tenants(homes: Homes, query: Query, *, language: Language) -> Found:
    """Return the passages of some tenants, best first. See `Searcher.search`."""
    if query.vector is None or query.mode == "text":
        hits, facts = _by_text(homes, query, language), Found()
    else:
        hits = _by_vector(homes, query)
        facts = Found(best_score=hits[0].passage.score if hits else None, scan="exact")
        if query.mode == "hybrid":
            hits = _fused(hits, _by_text(homes, query, language), query)
        threshold = -math.inf if query.score_threshold is None else query.score_threshold
        hits = [hit for hit in hits if hit.passage.score is None or hit.passage.score >= threshold]
    best = hits[: query.top_k]
    return Found(
        [hit.passage for hit in best],
        best_score=facts.best_score,
        scan=facts.scan,
        vectors=[hit.vector for hit in best] if query.with_vectors else None,
    )


def by_score(hit: Hit) -> tuple[float, str, str]:
    """Return the key that sorts hits by similarity, best first. Hits of equal similarity are sorted by chunk id."""
    return -(hit.passage.score or 0.0), *hit.key


def _by_vector(homes: Homes, query: Query) -> list[Hit]:
    assert query.vector is not None
    return sorted(
        (hit for name, home in homes for hit in home.by_vector(query.vector, home.allowed(query), shared=name)),
        key=by_score,
    )


def _by_text(homes: Homes, query: Query, language: Language) -> list[Hit]:
    ranked = rank(
        list(lexemes(query.question, language=language)),
        [home.words(language) for _, home in homes],
        chunks=sum(len(home.current()) for _, home in homes),
        allowed=[home.allowed(query) for _, home in homes],
        chunk_ids=[home.chunk_ids for _, home in homes],
        most=max(RERANKED, 5 * query.top_k),
    )
    return [homes[one.index][1].hit(one.number, shared=homes[one.index][0], text_score=one.score) for one in ranked]


def _fused(by_vector: Sequence[Hit], by_text: Sequence[Hit], query: Query) -> list[Hit]:
    """Join both rankings, best first. A chunk that only text search finds gets its similarity as well."""
    depth = max(DEPTH, query.top_k)
    known = {hit.key: hit for hit in by_vector}
    joined = {hit.key: hit for hit in by_vector[:depth]}
    for hit in by_text[:depth]:
        similar = known.get(hit.key)
        if similar is not None:
            hit = Hit(replace(similar.passage, text_score=hit.passage.text_score), similar.vector)
        joined[hit.key] = hit
    hits = list(joined.values())
    if query.fusion == "rank":
        ranks = reciprocal_ranks([hit.key for hit in by_vector[:depth]], [hit.key for hit in by_text[:depth]])
        scores = [ranks[hit.key] for hit in hits]
    else:
        scores = fused_scores([hit.passage for hit in hits])
    order = sorted(range(len(hits)), key=lambda number: (-scores[number], hits[number].key))
    return [hits[number] for number in order]

"""Reciprocal rank fusion of two rankings.

Source: Cormack, Clarke, Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods" (SIGIR 2009), k = 60.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ragcore.types import Passage

__all__ = ["RANK_CONSTANT", "fuse"]

RANK_CONSTANT = 60


def fuse(by_vector: Sequence[Passage], by_text: Sequence[Passage], /) -> list[Passage]:
    """Return both rankings as one, best first. A passage of both rankings gets both scores. Ties are sorted by chunk id."""
    fused: dict[str, Passage] = {}
    rank_scores: dict[str, float] = {}
    for ranking in (by_vector, by_text):
        for rank, passage in enumerate(ranking, start=1):
            known = fused.get(passage.chunk_id, passage)
            fused[passage.chunk_id] = replace(
                known,
                score=passage.score if known.score is None else known.score,
                text_score=passage.text_score if known.text_score is None else known.text_score,
            )
            rank_scores[passage.chunk_id] = rank_scores.get(passage.chunk_id, 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(fused.values(), key=lambda passage: (-rank_scores[passage.chunk_id], passage.chunk_id))

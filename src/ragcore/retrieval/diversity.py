"""Choose passages that differ from each other.

Source: J. Carbonell, J. Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing summaries" (SIGIR 1998).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragcore.protocols import Vector
from ragcore.store.fusion import fused_scores
from ragcore.text.words import content_words
from ragcore.types import Passage

__all__ = ["diversified"]


def diversified(
    passages: Sequence[Passage], vectors: Sequence[Vector | None] | None, /, *, top_k: int, diversity: float
) -> list[int]:
    """Return the positions of `top_k` passages by maximal marginal relevance.

    The best passage comes first. Each next passage is the one with the largest value of (1 - diversity) × relevance - diversity × similarity, where
    `similarity` is that to the most similar passage chosen so far.

    Relevance and similarity are both scaled to [0, 1] over the given passages, so that `diversity` means the same for each embedding model. For some
    models, the cosines of all texts lie between 0.7 and 0.9.

    Args:
        passages: candidates, best first.
        vectors: the vector of each passage. If there are none, or one is None, the similarity is computed from the words that two passages share.
        top_k: largest number of passages.
        diversity: from 0, which keeps the order, to 1, where relevance decides only about the first passage.
    """
    if not passages:
        return []
    relevance, similarity = _relevance(passages), _scaled(_similarity(passages, vectors))
    chosen = [0]
    nearest = similarity[0].copy()
    while len(chosen) < min(top_k, len(passages)):
        marginal = (1 - diversity) * relevance - diversity * nearest
        marginal[chosen] = -np.inf
        best = int(np.argmax(marginal))  # of equal values, argmax returns the first: the better passage
        chosen.append(best)
        nearest = np.maximum(nearest, similarity[best])
    return chosen


def _relevance(passages: Sequence[Passage]) -> NDArray[np.float64]:
    """Return the relevance of each passage in [0, 1]: the scaled score of a reranker, else the fused score, at most that of the passage before it."""
    reranked = [passage.rerank_score for passage in passages if passage.rerank_score is not None]
    if len(reranked) < len(passages):
        return np.minimum.accumulate(np.array(fused_scores(passages)))
    span = max(reranked) - min(reranked)
    return (np.array(reranked) - min(reranked)) / span if span > 0 else np.ones(len(reranked))


def _similarity(passages: Sequence[Passage], vectors: Sequence[Vector | None] | None) -> NDArray[np.float64]:
    known = [vector for vector in vectors or () if vector is not None]
    if len(known) == len(passages):
        matrix = np.stack(known).astype(np.float64)
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        matrix = matrix / np.where(norms > 0, norms, 1.0)
        cosines: NDArray[np.float64] = matrix @ matrix.T
        return cosines
    words = [frozenset(content_words(f"{passage.title} {passage.text}")) for passage in passages]
    return np.array([[len(one & other) / max(len(one | other), 1) for other in words] for one in words])


def _scaled(similarity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale the similarities of different passages to [0, 1]."""
    others = similarity[~np.eye(len(similarity), dtype=bool)]
    if not others.size or others.max() == others.min():
        return np.zeros_like(similarity)
    scaled: NDArray[np.float64] = np.clip((similarity - others.min()) / (others.max() - others.min()), 0.0, 1.0)
    return scaled

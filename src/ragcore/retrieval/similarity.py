"""The similarity report: the distribution of the scores of a tenant's chunks, and the effect of a threshold."""

from __future__ import annotations

import numpy as np

from ragcore.protocols import Vector
from ragcore.types import Counts, Retrieval, SimilarityReport

__all__ = ["report_similarity"]

BINS = 10
QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


def report_similarity(
    retrieval: Retrieval, *, scores: Vector, counts: Counts, score_threshold: float | None
) -> SimilarityReport:
    """Build the report.

    Args:
        retrieval: the nearest passages; the threshold is not applied to them.
        scores: (n,) cosine similarities, best first, of the tenant's embedded chunks, or of those that match a filter.
        counts: numbers of the tenant's documents and chunks.
        score_threshold: the threshold to check; None if there is none.
    """
    passing = len(scores) if score_threshold is None else int(np.count_nonzero(scores >= np.float32(score_threshold)))
    return SimilarityReport(
        retrieval=retrieval,
        score_threshold=score_threshold,
        chunks=counts.chunks,
        not_embedded=counts.not_embedded,
        passing=passing,
        exact=len(scores) >= counts.chunks - counts.not_embedded,
        sampled=len(scores) if len(scores) < counts.chunks - counts.not_embedded else None,
        quantiles=_quantiles(scores),
        histogram=_histogram(scores),
        verdict=_verdict(retrieval, scores, counts, score_threshold, passing),
    )


def _quantiles(scores: Vector) -> dict[str, float]:
    if not len(scores):
        return {}
    # The same as `np.quantile`, which imports numpy.ma: that would take 30 ms at the first call, or a twentieth of the package's import.
    ascending, last = np.sort(scores), len(scores) - 1
    at = np.interp([share * last for share in QUANTILES.values()], np.arange(last + 1), ascending)
    values = dict(zip(QUANTILES, map(float, at), strict=True))
    return {**values, "mean": float(np.mean(scores)), "deviation": float(np.std(scores))}


def _histogram(scores: Vector) -> tuple[tuple[float, float, int], ...]:
    if not len(scores):
        return ()
    counts, edges = np.histogram(scores, bins=BINS)
    return tuple((float(edges[i]), float(edges[i + 1]), int(count)) for i, count in enumerate(counts))


def _verdict(retrieval: Retrieval, scores: Vector, counts: Counts, threshold: float | None, passing: int) -> str:
    if not len(scores):
        deleted = "the tenant has no embedded chunks any more: they were deleted while the report was made"
        return deleted if retrieval.empty is None else retrieval.empty.message
    best = float(scores[0])
    missing = (
        f" {counts.not_embedded:,} chunks are not embedded, so vector search can't find them."
        if counts.not_embedded
        else ""
    )
    if threshold is None:
        return f"No threshold is set; the best of {len(scores):,} chunks scores {best:.2f}.{missing}"
    if passing:
        return f"{passing:,} of {len(scores):,} chunks pass {threshold:g}; the best scores {best:.2f}.{missing}"
    lower = np.floor(best * 20) / 20
    would = int(np.count_nonzero(scores >= np.float32(lower)))
    return f"No chunk passes {threshold:g}; the best scores {best:.2f}; {would:,} would pass {lower:.2f}.{missing}"

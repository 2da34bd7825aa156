"""The relative threshold: passages far below the best one of the same question are dropped."""

from __future__ import annotations

from ragcore.protocols import Found

__all__ = ["near_the_best"]


def near_the_best(found: Found, share: float | None, /) -> Found:
    """Return the passages whose score is at least `share` times the best score among them, in their order.

    The best passage always stays, so the result is empty only if `found` is. Passages without a score stay, because there is nothing to compare.
    If the best score is not positive, all passages stay, because a share of a negative number is above that number. `ragcore.explore.Sweep.relative` uses the
    same rule.

    Args:
        found: passages, in any order.
        share: from 0 to 1; None: keep all passages.
    """
    best = max((passage.score for passage in found if passage.score is not None), default=0.0)
    if share is None or best <= 0:
        return found
    kept = [passage for passage in found if passage.score is None or passage.score >= share * best]
    return Found(kept, best_score=found.best_score, scan=found.scan, degraded=found.degraded)

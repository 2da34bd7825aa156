"""Counts and latencies of many outcomes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from ragcore.loadtest.driving.outcome import ERRORS, Outcome
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.figures import Value

__all__ = ["latencies", "row"]


def latencies(outcomes: Sequence[Outcome]) -> dict[str, Value]:
    """Mean, p50, p90, p95, p99 and maximum latency in seconds; None without outcomes."""
    seconds = [outcome.seconds for outcome in outcomes]
    if not seconds:
        return dict.fromkeys(("mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "max_s"))
    return {
        "mean_s": statistics.fmean(seconds),
        **{f"p{share}_s": percentile(seconds, share / 100) for share in (50, 90, 95, 99)},
        "max_s": max(seconds),
    }


def row(outcomes: Sequence[Outcome]) -> dict[str, Value]:
    """Return a row of a table: the number of outcomes of each kind, and their latencies."""
    kinds = Counter(outcome.kind for outcome in outcomes)
    return {
        "asked": len(outcomes),
        "right": kinds["right"],
        "degraded": kinds["degraded"],
        "apology": kinds["apology"],
        "wrong": kinds["wrong"],
        **{kind: kinds[kind] for kind in ERRORS},
        **latencies(outcomes),
    }

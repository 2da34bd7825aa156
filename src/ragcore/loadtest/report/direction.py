"""Finds out from a figure's name which direction is better, and which difference is the smallest that counts."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["Direction", "better", "floor", "is_share"]

Direction: TypeAlias = Literal["lower", "higher"]
# FLOORS: the smallest difference that counts, by unit. SHARES: figures that are shares, whose scatter is small near 100 %.
FLOORS = {"_s": 0.01, "_ms": 2.0, "_us": 0.5, "_mb": 5.0, "_kb": 64.0, "question": 16.0}
SHARES = ("success_rate", "slo_share", "recall", "ndcg", "mrr")
HIGHER = (
    *(
        "success_rate",
        "slo_share",
        "rps",
        "per_s",
        "goodput",
        "recall",
        "ndcg",
        "mrr",
        "qps",
        "highest_concurrency",
        "highest_rate",
    ),
    *("goodput_ratio_to_peak", "copy_ratio", "rps_ratio_50"),
)
LOWER = (
    *(
        "_s",
        "_ms",
        "_us",
        "_mb",
        "_kb",
        "cpu_ratio",
        *("cpu_ratio_5", "cpu_ratio_50", "cpu_ratio_300"),
        "hung",
        "late",
        "wrong",
        "degraded",
        "violations",
        "unrecovered",
        "of_100",
    ),
    *("rss_growth_kb_per_question", "fd_growth", "leaked_connections", "leaked_sockets", "leaked_tasks"),
)
COUNTS = ("errors.",)
# These values depend on chance, on the length of the run or on the driver, so they are not judged.
NOT_JUDGED = (
    "rss_growth_mb",
    "rss_end_mb",
    "seconds",
    "driver_lag_p99_ms",
    "driver_cpu",
    "lateness_p99_ms",
    "p50_spread",
)


def better(figure: str) -> Direction | None:
    """Return the better direction of a figure; None if neither is better."""
    last = figure.rpartition(".")[2]
    if last in NOT_JUDGED or last.endswith("_low"):
        return None
    if figure.startswith(COUNTS):
        return "lower"
    if last.endswith(HIGHER) or last.startswith(HIGHER):
        return "higher"
    return "lower" if last.endswith(LOWER) else None


def floor(figure: str) -> float:
    """Return the smallest difference that counts, in the figure's unit."""
    if figure.endswith("per_s"):
        return 0.0
    return next((least for unit, least in FLOORS.items() if figure.endswith(unit)), 0.0)


def is_share(figure: str) -> bool:
    """Return whether the figure is a share, whose scatter is small near 100 %."""
    return figure.rpartition(".")[2].startswith(SHARES)

"""Times the sides of a comparison in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

__all__ = ["interleaved", "timed"]


def interleaved(rounds: int, **sides: Callable[[], float]) -> dict[str, float]:
    """Return the median result of each side. The sides run in turn, round by round, so that noise of the machine affects all."""
    results: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            results[name].append(side())
    return {name: statistics.median(values) for name, values in results.items()}


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began

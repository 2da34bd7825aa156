"""The aims of a threshold, and the threshold that reaches one best."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["MEASURES", "MOST_NOTHING_FOUND", "ROUNDED", "Aim", "Table", "recommend", "ties"]

Aim: TypeAlias = Literal["f1", "recall", "found"]
Table: TypeAlias = NDArray[np.float64]

MEASURES = ("precision", "recall", "f1", "nothing_found", "passages", "tokens")
LEAST_RECALL = 0.95
NEARLY = 0.99
MOST_NOTHING_FOUND = 0.05
# Tolerance for rounding when rates are compared.
ROUNDED = 1e-9


def recommend(means: Table, steps: Table, aim: Aim) -> float:
    """Return the recommended threshold.

    Args:
        means: (n, 6) means of the measures over the questions, at each threshold.
        steps: (n,) thresholds in ascending order.
        aim: the aim.
    """
    match aim:
        case "f1":
            # Of equally good thresholds, take the highest, because the fewest chunks pass it.
            return float(steps[int(np.flatnonzero(means[:, 2] >= np.max(means[:, 2]) - ROUNDED)[-1])])
        case "recall":
            most = float(np.max(means[:, 1]))
            # One question can decide the maximum, so if 0.95 is impossible, 99 % of the maximum is enough.
            wanted = LEAST_RECALL if most >= LEAST_RECALL else NEARLY * most
            enough = np.flatnonzero(means[:, 1] >= wanted - ROUNDED)
            return float(steps[int(enough[np.argmin(means[enough, 5])])])
        case _:
            enough = np.flatnonzero(means[:, 3] <= max(MOST_NOTHING_FOUND, float(np.min(means[:, 3]))) + ROUNDED)
            return float(steps[int(enough[-1])])


def ties(means: Table, steps: Table, aim: Aim, recommended: float) -> tuple[float, float]:
    """Return the lowest and the highest threshold around the recommended one that reach the aim equally well."""
    best = int(np.flatnonzero(steps == recommended)[0])
    # The column that the aim compares: F1 for "f1"; the tokens for "recall"; the share of questions with nothing found for "found".
    column = {"f1": 2, "recall": 5, "found": 3}[aim]
    equal = np.abs(means[:, column] - means[best, column]) <= ROUNDED
    if aim == "recall":
        equal &= means[:, 1] >= means[best, 1] - ROUNDED
    low = high = best
    while low > 0 and equal[low - 1]:
        low -= 1
    while high + 1 < len(steps) and equal[high + 1]:
        high += 1
    return float(steps[low]), float(steps[high])

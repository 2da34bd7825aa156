"""Estimates how much of a difference is noise, by a permutation test over runs and by a block bootstrap within a run.

The questions of a run are not independent: they wait for each other, and a whole run can be slower or faster than another run of the same service.
Resampling single questions would underestimate the noise, so the smallest unit is a block of consecutive questions.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ragcore.loadtest.estimates import percentile, student

__all__ = ["LEAST_RUNS", "Repeated", "blocks", "log_ratio_margin", "p_values", "ratio_of_runs", "scatter"]

# With three runs on each side, there are 20 ways to split the six runs, so the smallest p-value is 5 %. With fewer runs it would be larger.
LEAST_RUNS = 3
# If there are more assignments of the runs to the sides, a random sample of this size is used.
MOST_ASSIGNMENTS = 2000
BLOCKS, LEAST_BLOCK = 12, 10
RESAMPLES = 400
# Smaller differences are rounding errors.
CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Repeated:
    """One figure in several runs of both sides.

    Attributes:
        before, after: one value for each run; larger is worse.
        tolerance: the difference to ignore, in the values' unit.
    """

    before: Sequence[float]
    after: Sequence[float]
    tolerance: float


def p_values(figures: Sequence[Repeated], *, seed: int = 0) -> list[float]:
    """Return the p-value of each figure by a permutation test.

    All assignments of the runs to the two sides are compared with the real one. The p-value of a figure is the share of assignments in which the difference
    of at least one figure is as large as the real difference of this figure, or larger.

    If nothing changed, all assignments are equally likely. Then at most 5 % of comparisons have a figure with a p-value of 0.05 or less. This holds
    for any number of figures, independent or not, because each figure is compared with the largest of all figures (Westfall and Young 1993). A
    difference is divided by the scatter within the sides plus the tolerance: otherwise figures with much or very little scatter would hide the others
    (Tusher, Tibshirani and Chu 2001).

    Args:
        figures: figures of the same runs, in the same order.
    """
    if not figures:
        return []
    rows = [([*one.before, *one.after], one.tolerance) for one in figures]
    count, later = len(rows[0][0]), len(figures[0].after)
    given = tuple(range(count - later, count))
    largest = [
        max(_worse(values, chosen, tolerance) for values, tolerance in rows)
        for chosen in _assignments(count, later, given, seed)
    ]
    return [
        sum(one >= _worse(values, given, tolerance) - CLOSE for one in largest) / len(largest)
        for values, tolerance in rows
    ]


def _assignments(count: int, later: int, given: tuple[int, ...], seed: int) -> Iterable[tuple[int, ...]]:
    """Return the choices of runs for the later side: all choices or, if there are too many, the given choice and a random sample."""
    if math.comb(count, later) <= MOST_ASSIGNMENTS:
        return itertools.combinations(range(count), later)
    draw = random.Random(seed)
    return [given, *(tuple(draw.sample(range(count), later)) for _ in range(MOST_ASSIGNMENTS - 1))]


def _worse(values: Sequence[float], chosen: Sequence[int], tolerance: float) -> float:
    later = [values[number] for number in chosen]
    earlier = [value for number, value in enumerate(values) if number not in chosen]
    return (statistics.fmean(later) - statistics.fmean(earlier)) / (scatter(earlier, later) + tolerance)


def scatter(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the pooled standard deviation within both sides."""
    squares = sum((value - statistics.fmean(side)) ** 2 for side in (one, other) for value in side)
    return math.sqrt(squares / max(1, len(one) + len(other) - 2))


def ratio_of_runs(
    before: Sequence[float], after: Sequence[float], *, least_scatter: float = 0.0
) -> tuple[float, float, float]:
    """Return the ratio of geometric means, after / before, and its 95 % interval by Student's t over the runs.

    Args:
        before, after: a positive value for each run; at least three in total.
        least_scatter: the smallest standard deviation of the logarithms to assume, because a few runs can be close to each other by chance.
    """
    one, other = [math.log(value) for value in before], [math.log(value) for value in after]
    middle = statistics.fmean(other) - statistics.fmean(one)
    scattered = max(least_scatter, scatter(one, other))
    margin = student(len(one) + len(other) - 2) * scattered * math.sqrt(1 / len(one) + 1 / len(other))
    return math.exp(middle), math.exp(middle - margin), math.exp(middle + margin)


def blocks(values: Sequence[float]) -> list[Sequence[float]]:
    """Split values in order of time into up to 12 blocks of at least ten; fewer than ten values are one block."""
    count = min(BLOCKS, max(1, len(values) // LEAST_BLOCK)) if values else 0
    return [values[number * len(values) // count : (number + 1) * len(values) // count] for number in range(count)]


def log_ratio_margin(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], *, share: float, figures: int, seed: int = 0
) -> float:
    """Return half the width of an interval for the logarithm of the ratio of percentiles, by the block bootstrap (Künsch 1989).

    Args:
        before, after: blocks of positive values, at least two on each side.
        share: the percentile, from 0 to 1.
        figures: the number of intervals that must all hold in 95 % of comparisons (Bonferroni).
    """
    fewest = min(len(before), len(after))
    # A bootstrap of few blocks gives an interval that is too narrow. The first factor corrects its spread; the others use Student's t and correct its shape.
    wider = math.sqrt(fewest / (fewest - 1)) * student(fewest - 1) / student(10_000)
    draw = random.Random(seed)

    def drawn(side: Sequence[Sequence[float]]) -> float:
        pooled = [value for block in draw.choices(side, k=len(side)) for value in block]
        return math.log(max(percentile(pooled, share), 1e-9))

    ratios = [drawn(after) - drawn(before) for _ in range(RESAMPLES)]
    return wider * statistics.NormalDist().inv_cdf(1 - 0.025 / max(1, figures)) * statistics.stdev(ratios)

"""How much of a difference is noise: runs exchanged between two sides, and blocks of one run drawn again.

Questions of one run are not independent: they wait for each other, and a run as a whole is slower or faster than another of the same service.
Drawing single questions again would show far less noise than there is, so the smallest thing that is drawn here is a block of neighbours in time.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ragcore.loadtest.estimates import percentile, student

__all__ = ["LEAST_RUNS", "Repeated", "blocks", "exchanged", "log_ratio_margin", "ratio_of_runs", "scatter"]

# Of three runs a side there are 20 ways to tell six runs apart: the fewest with which one of them alone is 5 %.
LEAST_RUNS = 3
# More exchanges than these are drawn at random.
MOST_EXCHANGES = 2000
BLOCKS, LEAST_BLOCK = 12, 10
RESAMPLES = 400
# Differences that only rounding makes.
CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Repeated:
    """One figure of several runs on both sides.

    Attributes:
        before, after: a value for each run; larger is worse.
        tolerance: the difference that does not matter, in the values' unit.
    """

    before: Sequence[float]
    after: Sequence[float]
    tolerance: float


def exchanged(figures: Sequence[Repeated], *, seed: int = 0) -> list[float]:
    """For each figure, the share of exchanges of runs between the sides that make some figure look at least as much worse.

    If nothing changed, which run stood on which side is chance. A share of at most 0.05 for any figure then comes up in at most 5 % of comparisons,
    however many figures there are and however they depend on each other, because the largest of all figures is what each is compared with (Westfall and
    Young 1993). A difference is divided by the scatter within the sides plus the tolerance, so that neither a figure that scatters nor one that happens
    not to hides the others (Tusher, Tibshirani and Chu 2001).

    Args:
        figures: all of the same runs, in the same order.
    """
    if not figures:
        return []
    rows = [([*one.before, *one.after], one.tolerance) for one in figures]
    count, later = len(rows[0][0]), len(figures[0].after)
    given = tuple(range(count - later, count))
    largest = [
        max(_worse(values, chosen, tolerance) for values, tolerance in rows)
        for chosen in _exchanges(count, later, given, seed)
    ]
    return [
        sum(one >= _worse(values, given, tolerance) - CLOSE for one in largest) / len(largest)
        for values, tolerance in rows
    ]


def _exchanges(count: int, later: int, given: tuple[int, ...], seed: int) -> Iterable[tuple[int, ...]]:
    """Which runs stand on the later side: in all ways, or in many drawn at random besides the given one."""
    if math.comb(count, later) <= MOST_EXCHANGES:
        return itertools.combinations(range(count), later)
    draw = random.Random(seed)
    return [given, *(tuple(draw.sample(range(count), later)) for _ in range(MOST_EXCHANGES - 1))]


def _worse(values: Sequence[float], chosen: Sequence[int], tolerance: float) -> float:
    later = [values[number] for number in chosen]
    earlier = [value for number, value in enumerate(values) if number not in chosen]
    return (statistics.fmean(later) - statistics.fmean(earlier)) / (scatter(earlier, later) + tolerance)


def scatter(one: Sequence[float], other: Sequence[float]) -> float:
    """The standard deviation within both sides."""
    squares = sum((value - statistics.fmean(side)) ** 2 for side in (one, other) for value in side)
    return math.sqrt(squares / max(1, len(one) + len(other) - 2))


def ratio_of_runs(
    before: Sequence[float], after: Sequence[float], *, least_scatter: float = 0.0
) -> tuple[float, float, float]:
    """The ratio of geometric means, after / before, and its 95 % interval by Student's t over the runs.

    Args:
        before, after: a positive value for each run; at least three in all.
        least_scatter: the standard deviation of the logarithms is taken to be at least this: that of few runs is small by chance, too.
    """
    one, other = [math.log(value) for value in before], [math.log(value) for value in after]
    middle = statistics.fmean(other) - statistics.fmean(one)
    scattered = max(least_scatter, scatter(one, other))
    margin = student(len(one) + len(other) - 2) * scattered * math.sqrt(1 / len(one) + 1 / len(other))
    return math.exp(middle), math.exp(middle - margin), math.exp(middle + margin)


def blocks(values: Sequence[float]) -> list[Sequence[float]]:
    """Up to 12 blocks of neighbours, of ten at least, of values in the order of time; fewer than ten are one block."""
    count = min(BLOCKS, max(1, len(values) // LEAST_BLOCK)) if values else 0
    return [values[number * len(values) // count : (number + 1) * len(values) // count] for number in range(count)]


def log_ratio_margin(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], *, share: float, figures: int, seed: int = 0
) -> float:
    """Half the width of an interval of the logarithm of the ratio of percentiles, by the bootstrap over blocks (Künsch 1989).

    Args:
        before, after: blocks of positive values, at least two a side.
        share: which percentile, 0 to 1.
        figures: how many intervals shall hold together in 95 % of comparisons (Bonferroni).
    """
    fewest = min(len(before), len(after))
    # What a bootstrap of few blocks makes too narrow: its spread by their number, its shape by Student's t.
    wider = math.sqrt(fewest / (fewest - 1)) * student(fewest - 1) / student(10_000)
    draw = random.Random(seed)

    def drawn(side: Sequence[Sequence[float]]) -> float:
        pooled = [value for block in draw.choices(side, k=len(side)) for value in block]
        return math.log(max(percentile(pooled, share), 1e-9))

    ratios = [drawn(after) - drawn(before) for _ in range(RESAMPLES)]
    return wider * statistics.NormalDist().inv_cdf(1 - 0.025 / max(1, figures)) * statistics.stdev(ratios)

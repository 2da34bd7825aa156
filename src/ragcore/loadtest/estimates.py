"""Percentiles and slopes, with the standard library only."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Slope", "percentile", "slope", "student"]

# The 97.5 % quantile of Student's t by degrees of freedom, for a two-sided 95 % interval.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}
BLOCKS = 12


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile, interpolated linearly (numpy's default, Hyndman and Fan's type 7); NaN without values. `share` is from 0 to 1."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    # In this form of the formula, rounding never moves the result out of the range between both values.
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t. Above 10 degrees of freedom it is correct to three digits (Cornish and Fisher 1938)."""
    return STUDENT[freedom] if freedom in STUDENT else 1.96 + 2.37 / freedom + 2.8 / freedom**2


@dataclass(frozen=True, slots=True)
class Slope:
    """A slope by least squares, and half the width of its 95 % interval; NaN with too few points."""

    value: float
    margin: float

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return self.value - self.margin


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Fit a line by least squares to the means of up to 12 blocks of consecutive points.

    A fit to the points themselves would give a far too narrow margin, because resident memory changes in steps and then stays.
    """
    count = min(BLOCKS, len(points))
    edges = [number * len(points) // count for number in range(count + 1)] if count else []
    blocks = [points[start:end] for start, end in itertools.pairwise(edges)]
    xs = [statistics.fmean(x for x, _ in block) for block in blocks]
    ys = [statistics.fmean(y for _, y in block) for block in blocks]
    if len(set(xs)) < 3:
        return Slope(math.nan, math.nan)
    line = statistics.linear_regression(xs, ys)
    middle = statistics.fmean(xs)
    spread = sum((x - middle) ** 2 for x in xs)
    rest = sum((y - line.intercept - line.slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    freedom = len(xs) - 2
    return Slope(line.slope, student(freedom) * math.sqrt(rest / freedom / spread))

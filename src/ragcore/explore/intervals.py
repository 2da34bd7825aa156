"""Intervals of means over questions that are not too narrow, even with few questions.

A plain bootstrap of thirteen questions that all succeed gives "1.000 to 1.000", although another sample of thirteen questions could easily contain one
that fails. So Wilson's interval is used for shares of questions, and the rule of three for samples of equal values. For all other samples, the bootstrap is
used, with its known corrections for few values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ragcore.loadtest.estimates import student

__all__ = ["of_mean", "of_share"]

ROUNDS = 2_000
Z = 1.959964
NORMAL = NormalDist()


def of_share(hits: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, hits / count, by Wilson's score; (0, 1) without any observation.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.

    Examples:
        >>> low, high = of_share(13, 13)
        >>> round(low, 2), high
        (0.77, 1.0)
    """
    if count < 1:
        return 0.0, 1.0
    share, squared = hits / count, Z * Z
    middle = (share + squared / (2 * count)) / (1 + squared / count)
    reach = Z * math.sqrt(share * (1 - share) / count + squared / (4 * count * count)) / (1 + squared / count)
    # At the ends the formula gives 0 and 1 except for rounding errors.
    low = 0.0 if hits <= 0 else middle - reach
    high = 1.0 if hits >= count else middle + reach
    return max(0.0, low), min(1.0, high)


def of_mean(
    values: Sequence[float], *, least: float | None = None, most: float | None = None, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of the mean of independent values, one for each question; (NaN, NaN) without values.

    - If all values are 0 or 1, the mean is a share of the questions, and the interval is Wilson's score interval.
    - If all values are equal, up to 1 − 0.025^(1/n) of all questions, about 3.7/n, may have another value, and this value may be `least` or `most`. This is
      the rule of three, for two sides.
    - Otherwise, the interval is that of the bias-corrected and accelerated bootstrap (BCa), with expanded percentiles for few values.

    Sources: B. Efron, "Better bootstrap confidence intervals", JASA 82, 1987. T. C. Hesterberg, "What teachers should know about the bootstrap",
    The American Statistician 69, 2015 (expanded percentiles). B. D. Jovanovic, P. S. Levy, "A look at the rule of three", ibid. 51, 1997.

    Args:
        values: the values; the differences of pairs for a paired comparison.
        least, most: the smallest and the largest value that is possible; None: unknown.
    """
    data = np.asarray(values, dtype=np.float64)
    count = len(data)
    if count == 0:
        return math.nan, math.nan
    if (least, most) == (0.0, 1.0) and np.isin(data, (0.0, 1.0)).all():
        return of_share(float(data.sum()), count)
    if np.ptp(data) < 1e-12:
        value, others = float(data[0]), 1 - 0.025 ** (1 / count)
        low = value if least is None else value + others * (least - value)
        high = value if most is None else value + others * (most - value)
        return low, high
    low, high = _bca(data, seed)
    return (low if least is None else max(low, least)), (high if most is None else min(high, most))


def _bca(data: NDArray[np.float64], seed: int) -> tuple[float, float]:
    count = len(data)
    mean = float(data.mean())
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=ROUNDS)
    means = weights @ data / count
    below = (np.count_nonzero(means < mean - 1e-12) + 0.5 * np.count_nonzero(np.abs(means - mean) <= 1e-12)) / ROUNDS
    bias = NORMAL.inv_cdf(min(max(below, 1 / ROUNDS), 1 - 1 / ROUNDS))
    away = mean - data  # (count − 1) times the change of the mean if one value is left out
    acceleration = float((away**3).sum() / (6 * (away**2).sum() ** 1.5))
    reach = math.sqrt(count / (count - 1)) * student(count - 1)
    ends = []
    for z in (-reach, reach):
        shifted = bias + (bias + z) / max(1 - acceleration * (bias + z), 0.1)
        ends.append(float(np.quantile(means, NORMAL.cdf(shifted))))
    return min(ends), max(ends)

"""Compares three or more runs on each side. The noise between runs is measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ragcore.loadtest.report.comparison import Row, ratio_of
from ragcore.loadtest.report.direction import is_share
from ragcore.loadtest.report.judged import Judged, of_phases, of_summaries
from ragcore.loadtest.report.results import Run
from ragcore.loadtest.resampling import Repeated, p_values, ratio_of_runs, scatter

__all__ = ["SHARE_NOISE", "by_runs"]

# The share of comparisons of an unchanged service that may report a regression.
CHANCE = 0.05
SHARE_NOISE = 0.01


def by_runs(before: Sequence[Run], after: Sequence[Run], tolerance: float) -> list[Row]:
    """Return a row for each figure. A permutation test decides which figures are regressions; see `compare_runs`."""
    figures = [*of_phases(before, after), *of_summaries(before, after)]
    # Test all figures with a direction, also those that don't differ. A choice by the difference would bias the test.
    judged = [figure for figure in figures if figure.direction is not None]
    verdicts = {
        figure.name: _verdict_of(figure, worse, improved)
        for figure, worse, improved in zip(
            judged,
            p_values([_repeated(figure, tolerance, +1) for figure in judged]),
            p_values([_repeated(figure, tolerance, -1) for figure in judged]),
            strict=True,
        )
    }
    typical = _typical_scatter(judged)
    rows = []
    for figure in figures:
        verdict = verdicts.get(figure.name, "")
        ratio, low, high = ratio_of(*figure.means), None, None
        if figure.positive:
            least = typical if figure.scatters else 0.0
            ratio, low, high = ratio_of_runs(figure.before, figure.after, least_scatter=least)
        certain = low is None or high is None or not low <= 1 <= high
        if verdict != "" and not (certain and figure.matters and _exceeds(figure, tolerance)):
            verdict = "same"
        rows.append(Row(figure.name, *figure.means, ratio, low, high, verdict))
    return rows


def _typical_scatter(figures: Sequence[Judged]) -> float:
    """Return the median scatter of all figures, as a standard deviation of logarithms. It is more reliable than the scatter of one figure."""
    scatters = [
        scatter(*([math.log(value) for value in side] for side in (figure.before, figure.after)))
        for figure in figures
        if figure.scatters
    ]
    return statistics.median(scatters) if scatters else 0.0


def _verdict_of(figure: Judged, worse: float, improved: float) -> str:
    return "regression" if worse <= CHANCE else "better" if improved <= CHANCE else "same"


def _repeated(figure: Judged, tolerance: float, sign: int) -> Repeated:
    """Scale a figure so that its differences are relative. Take logarithms; if a value is not positive, divide by the mean of the absolute values."""
    sign = sign if figure.direction == "lower" else -sign
    values = [*figure.before, *figure.after]
    size = statistics.fmean(map(abs, values)) or 1.0
    scaled = [sign * (math.log(value) if figure.positive else value / size) for value in values]
    tolerated = max(_tolerated(figure.name, tolerance), figure.least / size)
    if figure.counts:
        tolerated = max(tolerated, math.sqrt(2 / size))  # the Poisson scatter of a difference of two counts
    return Repeated(scaled[: len(figure.before)], scaled[len(figure.before) :], tolerated)


def _exceeds(figure: Judged, tolerance: float) -> bool:
    before, after = figure.means
    return not figure.positive or abs(math.log(after / before)) > _tolerated(figure.name, tolerance)


def _tolerated(name: str, tolerance: float) -> float:
    """Return the tolerance as a difference of logarithms."""
    return math.log1p(min(tolerance, SHARE_NOISE) if is_share(name) else tolerance)

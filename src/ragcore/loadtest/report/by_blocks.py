"""Compares runs when a side has fewer than three. Noise within a run is measured by blocks and phases; noise between runs is assumed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from ragcore.loadtest.estimates import percentile, student
from ragcore.loadtest.report.by_runs import SHARE_NOISE
from ragcore.loadtest.report.comparison import Row, ratio_of, verdict_of
from ragcore.loadtest.report.direction import floor, is_share
from ragcore.loadtest.report.judged import FEWEST, PERCENTILES, Judged, by_phase, of_summaries
from ragcore.loadtest.report.results import Run
from ragcore.loadtest.resampling import blocks, log_ratio_margin

__all__ = ["ASSUMED_NOISE", "by_blocks"]

# Two runs of one service commonly differ by this share, up or down.
ASSUMED_NOISE = 0.3
# One or two errors can be chance. A hang is never chance.
FEWEST_EVENTS = 3
LEAST_BLOCKS, LEAST_PHASES = 4, 3


def by_blocks(before: Sequence[Run], after: Sequence[Run], tolerance: float) -> list[Row]:
    """Return a row for each figure. A figure is a regression if its whole interval is worse by more than the tolerance."""
    sides = [[by_phase(run.outcomes) for run in runs] for runs in (before, after)]
    phases = [
        # A block never spans two runs.
        (
            phase,
            name,
            share,
            [[block for run in side for block in blocks(values_of(run.get(phase, ())))] for side in sides],
        )
        for phase in dict.fromkeys(phase for run in sides[0] for phase in run)
        for name, values_of, share in PERCENTILES
        if min(sum(len(values_of(run.get(phase, ()))) for run in side) for side in sides) >= FEWEST
    ]
    rows = []
    for phase, name, share, (one, other) in phases:
        values = [percentile([value for block in side for value in block], share) for side in (one, other)]
        # A phase with few blocks doesn't show its noise, so it is judged only together with the other phases, in _over_phases.
        margin = math.inf
        if min(len(one), len(other)) >= LEAST_BLOCKS:
            margin = log_ratio_margin(one, other, share=share, figures=len(phases))
        rows.append(_row_of_latency(f"{phase}, {name}", values[0], values[1], margin, tolerance))
    return [
        *_over_phases(rows, tolerance),
        *rows,
        *(_of_figure(one, tolerance) for one in of_summaries(before, after)),
    ]


def _over_phases(rows: Sequence[Row], tolerance: float) -> Iterator[Row]:
    """Judge all phases together, since each phase measures the same change."""
    for name, _, _ in PERCENTILES:
        those = [row for row in rows if row.figure.endswith(f", {name}") and min(row.before, row.after) > 0]
        if len(those) < LEAST_PHASES:
            continue
        logs = [math.log(row.ratio) for row in those]
        margin = student(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
        before, after = (
            statistics.geometric_mean(values)
            for values in zip(*((row.before, row.after) for row in those), strict=True)
        )
        yield _row_of_latency(f"all phases, {name}", before, after, margin, tolerance)


def _row_of_latency(figure: str, before: float, after: float, margin: float, tolerance: float) -> Row:
    """Return the row of a latency. `margin` is half the interval of the ratio's logarithm; the assumed noise between runs is added to it."""
    ratio = after / max(before, 1e-9)
    if not math.isfinite(margin):
        return Row(figure, before, after, ratio, None, None, "")
    factor = math.exp(math.hypot(margin, math.log1p(ASSUMED_NOISE)))
    low, high = ratio / factor, ratio * factor
    verdict = verdict_of("lower", low, high, tolerance) if abs(after - before) > floor(figure) else "same"
    return Row(figure, before, after, ratio, low, high, verdict)


def _of_figure(figure: Judged, tolerance: float) -> Row:
    before, after = figure.means
    ratio = ratio_of(before, after)
    if figure.direction is None:
        verdict = ""
    elif not figure.matters or (
        figure.counts and not figure.name.endswith("hung") and abs(after - before) < FEWEST_EVENTS
    ):
        verdict = "same"
    elif before <= 0 or after <= 0:
        # Without positive values there is no ratio: any change beyond the floor counts.
        verdict = "better" if (after < before) == (figure.direction == "lower") else "regression"
    elif is_share(figure.name):
        verdict = verdict_of(
            figure.direction, ratio * (1 - SHARE_NOISE), ratio * (1 + SHARE_NOISE), min(tolerance, SHARE_NOISE)
        )
    elif figure.counts:
        noise = 2 * math.sqrt(1 / before + 1 / after)
        verdict = verdict_of(figure.direction, ratio * math.exp(-noise), ratio * math.exp(noise), tolerance)
    else:
        noise = 0.0 if isinstance(figure.before[0], int) else math.log1p(ASSUMED_NOISE)
        verdict = verdict_of(figure.direction, ratio * math.exp(-noise), ratio * math.exp(noise), tolerance)
    return Row(figure.name, before, after, ratio, None, None, verdict)

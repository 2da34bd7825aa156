"""Two sides of runs: ratios, how much of them is noise, and what is a regression."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragcore.errors import InvalidInput
from ragcore.loadtest.driving.outcome import Outcome
from ragcore.loadtest.estimates import percentile, student
from ragcore.loadtest.report.direction import Direction, better, floor, is_share
from ragcore.loadtest.report.results import Run, read_runs
from ragcore.loadtest.resampling import (
    LEAST_RUNS,
    Repeated,
    blocks,
    exchanged,
    log_ratio_margin,
    ratio_of_runs,
    scatter,
)
from ragcore.loadtest.words import percent

__all__ = ["Comparison", "Row", "compare", "compare_runs"]

# By how much two runs of one service commonly differ, either way: assumed where too few runs are there to measure it.
ASSUMED_NOISE = 0.3
SHARE_NOISE = 0.01
# How often a comparison of one unchanged service may call anything a regression.
CHANCE = 0.05
# Of a phase with fewer questions nothing is said.
FEWEST = 5
# One error or two come by chance; a hang never does.
FEWEST_EVENTS = 3
LEAST_BLOCKS, LEAST_PHASES = 4, 3
LATENCIES = ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "max_s")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both sides.

    Attributes:
        before, after: of several runs, their mean: the geometric one, where all are above zero.
        ratio: after / before.
        low, high: 95 % interval of the ratio; None: not known.
        verdict: "regression", "better", "same" (within its noise and the tolerance), or "" where neither is better.
    """

    figure: str
    before: float
    after: float
    ratio: float
    low: float | None
    high: float | None
    verdict: str


@dataclass
class Comparison:
    """What changed between two sides."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Row]:
        """The figures that got worse."""
        return [row for row in self.rows if row.verdict == "regression"]

    def to_dict(self) -> dict[str, Any]:
        """For programs: one flat object; None where there is no ratio."""
        ratios = {f"ratio.{row.figure}": row.ratio if math.isfinite(row.ratio) else None for row in self.rows}
        worse = {
            f"regression.{row.figure}": row.ratio if math.isfinite(row.ratio) else None for row in self.regressions
        }
        return {"regressions": len(worse), "missed": len(self.missed), **worse, **ratios}


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure's value in each run."""

    name: str
    before: Sequence[float]
    after: Sequence[float]
    direction: Direction | None
    least: float

    @property
    def counts(self) -> bool:
        """Whether it counts events that should not be."""
        return self.direction == "lower" and all(isinstance(value, int) for value in (*self.before, *self.after))

    @property
    def positive(self) -> bool:
        return min(*self.before, *self.after) > 0

    @property
    def scatters(self) -> bool:
        """Whether it is measured, and so scatters as times do; counts and shares near their top do not."""
        return self.positive and not self.counts and not is_share(self.name)

    @property
    def means(self) -> tuple[float, float]:
        mean = statistics.geometric_mean if self.positive else statistics.fmean
        return mean(self.before), mean(self.after)

    @property
    def matters(self) -> bool:
        """Whether it has a better direction, and differs by enough to count."""
        before, after = self.means
        return self.direction is not None and abs(after - before) > self.least


def compare(before: Path, after: Path, *, tolerance: float = 0.1) -> Comparison:
    """Compare two sides, each the folder of a run or a folder of such folders; see `compare_runs`.

    Raises:
        InvalidInput: a folder holds no run, or the runs are of different scenarios.
    """
    return compare_runs(read_runs(before), read_runs(after), tolerance=tolerance)


def compare_runs(before: Sequence[Run], after: Sequence[Run], *, tolerance: float = 0.1) -> Comparison:
    """Compare runs of one scenario.

    With three runs or more on each side, a figure that is worse by more than the tolerance is a regression if at most 5 % of all exchanges of runs
    between the sides make any figure look as much worse, and if its interval leaves out 1: of two sides alike, at most 5 % of comparisons find one.

    With fewer, nothing tells how runs differ of themselves. Latencies get intervals from blocks of neighbouring questions and 30 % either way for what
    runs are assumed to differ by; other figures 30 %, shares 1 %, counts twice their Poisson scatter. A regression is a ratio that is worse by more than
    the tolerance with the whole of its interval, or a count that was zero and is not any more: of three events at least, of a single hang.

    Args:
        tolerance: a ratio this far from 1 does not matter.

    Raises:
        InvalidInput: the runs are of different scenarios.
    """
    first = before[0]
    for run in (*before, *after):
        if run.summary["scenario"] != first.summary["scenario"]:
            raise InvalidInput(
                f"{first.folder} is a run of {first.summary['scenario']}, {run.folder} one of {run.summary['scenario']}"
            )
    comparison = Comparison(missed=list(_missed(after)), notes=list(_differences(first, [*before[1:], *after])))
    if min(len(before), len(after)) >= LEAST_RUNS:
        comparison.notes.append(
            f"{len(before)} runs before, {len(after)} after: a regression must be one that at most 5 % of all exchanges of runs between the sides show"
        )
        comparison.rows += _by_runs(before, after, tolerance)
    else:
        comparison.notes.append(
            f"how much runs of one service differ is assumed ({percent(ASSUMED_NOISE)} either way), not measured: to find smaller changes, "
            f"compare {LEAST_RUNS} runs or more on each side"
        )
        comparison.rows += _by_blocks(before, after, tolerance)
    return comparison


def _missed(runs: Sequence[Run]) -> Iterator[str]:
    for number, run in enumerate(runs, 1):
        for text in (*run.summary["failed"], *run.summary["invalid"]):
            yield text if len(runs) == 1 else f"run {number}: {text}"


def _differences(first: Run, others: Sequence[Run]) -> Iterator[str]:
    for what in ("machine", "settings"):
        changed = {
            name
            for other in others
            for name in {*first.summary[what], *other.summary[what]}
            if first.summary[what].get(name) != other.summary[what].get(name)
        }
        if changed:
            yield f"{what} differ: {', '.join(sorted(changed))}"


def _by_runs(before: Sequence[Run], after: Sequence[Run], tolerance: float) -> list[Row]:
    figures = [*_phase_figures(before, after), *_summary_figures(before, after)]
    # All that have a direction, whether they differ or not: a choice by what differs would be one by which side a run stands on.
    judged = [figure for figure in figures if figure.direction is not None]
    verdicts = {
        figure.name: _of_chances(figure, worse, well)
        for figure, worse, well in zip(
            judged,
            exchanged([_repeated(figure, tolerance, +1) for figure in judged]),
            exchanged([_repeated(figure, tolerance, -1) for figure in judged]),
            strict=True,
        )
    }
    typical = _typical_scatter(judged)
    rows = []
    for figure in figures:
        verdict = verdicts.get(figure.name, "")
        ratio, low, high = _ratio(*figure.means), None, None
        if figure.positive:
            least = typical if figure.scatters else 0.0
            ratio, low, high = ratio_of_runs(figure.before, figure.after, least_scatter=least)
        certain = low is None or high is None or not low <= 1 <= high
        if verdict != "" and not (certain and figure.matters and _exceeds(figure, tolerance)):
            verdict = "same"
        rows.append(Row(figure.name, *figure.means, ratio, low, high, verdict))
    return rows


def _typical_scatter(figures: Sequence[_Figure]) -> float:
    """By which the figures of a run scatter, as a standard deviation of logarithms; the median of all tells more than one alone."""
    scatters = [
        scatter(*([math.log(value) for value in side] for side in (figure.before, figure.after)))
        for figure in figures
        if figure.scatters
    ]
    return statistics.median(scatters) if scatters else 0.0


def _of_chances(figure: _Figure, worse: float, well: float) -> str:
    return "regression" if worse <= CHANCE else "better" if well <= CHANCE else "same"


def _repeated(figure: _Figure, tolerance: float, sign: int) -> Repeated:
    """On a scale on which a difference is about a share of the value: logarithms, or parts of the mean where a value is not above zero."""
    sign = sign if figure.direction == "lower" else -sign
    values = [*figure.before, *figure.after]
    size = statistics.fmean(map(abs, values)) or 1.0
    scaled = [sign * (math.log(value) if figure.positive else value / size) for value in values]
    tolerated = max(_tolerated(figure.name, tolerance), figure.least / size)
    if figure.counts:
        tolerated = max(tolerated, math.sqrt(2 / size))  # the Poisson scatter of a difference of two counts
    return Repeated(scaled[: len(figure.before)], scaled[len(figure.before) :], tolerated)


def _exceeds(figure: _Figure, tolerance: float) -> bool:
    before, after = figure.means
    return not figure.positive or abs(math.log(after / before)) > _tolerated(figure.name, tolerance)


def _tolerated(name: str, tolerance: float) -> float:
    """As a difference of logarithms."""
    return math.log1p(min(tolerance, SHARE_NOISE) if is_share(name) else tolerance)


def _phase_figures(before: Sequence[Run], after: Sequence[Run]) -> Iterator[_Figure]:
    """Percentiles of each phase that every run has."""
    sides = [[_by_phase(run.outcomes) for run in runs] for runs in (before, after)]
    for phase in sides[0][0]:
        for name, values_of, share in PERCENTILES:
            each = [[values_of(run.get(phase, ())) for run in side] for side in sides]
            if min(len(values) for side in each for values in side) < FEWEST:
                continue
            one, other = ([percentile(values, share) for values in side] for side in each)
            yield _Figure(f"{phase}, {name}", one, other, "lower", floor(name))


def _summary_figures(before: Sequence[Run], after: Sequence[Run]) -> Iterator[_Figure]:
    """The figures that every run has; not judged, if the phases judge them."""
    measured = any(run.outcomes for run in before)
    for name in before[0].summary["figures"]:
        one, other = ([run.summary["figures"].get(name) for run in side] for side in (before, after))
        if all(map(_is_number, (*one, *other))):
            direction = None if measured and name in LATENCIES else better(name)
            yield _Figure(name, one, other, direction, floor(name))


def _by_blocks(before: Sequence[Run], after: Sequence[Run], tolerance: float) -> list[Row]:
    sides = [[_by_phase(run.outcomes) for run in runs] for runs in (before, after)]
    phases = [
        # A block never reaches from one run into another.
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
        # Of few blocks nothing is known but that they wait for each other: such a phase speaks only with the others, below.
        margin = math.inf
        if min(len(one), len(other)) >= LEAST_BLOCKS:
            margin = log_ratio_margin(one, other, share=share, figures=len(phases))
        rows.append(_assuming(f"{phase}, {name}", values[0], values[1], margin, tolerance))
    return [
        *_over_phases(rows, tolerance),
        *rows,
        *(_of_figure(one, tolerance) for one in _summary_figures(before, after)),
    ]


def _over_phases(rows: Sequence[Row], tolerance: float) -> Iterator[Row]:
    """The phases together: each is one more measurement of the same change."""
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
        yield _assuming(f"all phases, {name}", before, after, margin, tolerance)


def _assuming(figure: str, before: float, after: float, margin: float, tolerance: float) -> Row:
    """A latency whose interval has what runs are assumed to differ by besides its own margin, which is one of logarithms."""
    ratio = after / max(before, 1e-9)
    if not math.isfinite(margin):
        return Row(figure, before, after, ratio, None, None, "")
    factor = math.exp(math.hypot(margin, math.log1p(ASSUMED_NOISE)))
    low, high = ratio / factor, ratio * factor
    verdict = _verdict("lower", low, high, tolerance) if abs(after - before) > floor(figure) else "same"
    return Row(figure, before, after, ratio, low, high, verdict)


def _of_figure(figure: _Figure, tolerance: float) -> Row:
    before, after = figure.means
    ratio = _ratio(before, after)
    if figure.direction is None:
        verdict = ""
    elif not figure.matters or (
        figure.counts and not figure.name.endswith("hung") and abs(after - before) < FEWEST_EVENTS
    ):
        verdict = "same"
    elif before <= 0 or after <= 0:
        # Of what is not above zero there is no ratio: any change beyond the floor counts.
        verdict = "better" if (after < before) == (figure.direction == "lower") else "regression"
    elif is_share(figure.name):
        verdict = _verdict(
            figure.direction, ratio * (1 - SHARE_NOISE), ratio * (1 + SHARE_NOISE), min(tolerance, SHARE_NOISE)
        )
    elif figure.counts:
        noise = 2 * math.sqrt(1 / before + 1 / after)
        verdict = _verdict(figure.direction, ratio * math.exp(-noise), ratio * math.exp(noise), tolerance)
    else:
        noise = 0.0 if isinstance(figure.before[0], int) else math.log1p(ASSUMED_NOISE)
        verdict = _verdict(figure.direction, ratio * math.exp(-noise), ratio * math.exp(noise), tolerance)
    return Row(figure.name, before, after, ratio, None, None, verdict)


def _by_phase(outcomes: Sequence[Outcome]) -> Mapping[str, list[Outcome]]:
    """The measured phases, each in the order of time."""
    phases: dict[str, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda one: one.due):
        if not outcome.phase.startswith("warm-up"):
            phases.setdefault(outcome.phase, []).append(outcome)
    return phases


def _waited(outcomes: Sequence[Outcome]) -> list[float]:
    return [one.seconds for one in outcomes]


def _first_token(outcomes: Sequence[Outcome]) -> list[float]:
    return [value for one in outcomes if (value := one.first_token_seconds) is not None]


# Of a phase: what a figure is called, what it is of, and which percentile.
PERCENTILES = (("p50_s", _waited, 0.5), ("p95_s", _waited, 0.95), ("first_token_p50_s", _first_token, 0.5))


def _ratio(before: float, after: float) -> float:
    return after / before if before else (1.0 if after == before else math.inf)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _verdict(direction: Direction | None, low: float, high: float, tolerance: float) -> str:
    if direction is None:
        return ""
    if direction == "higher":
        # As if lower were better, of the reciprocal.
        low, high = (1 / high if high else math.inf), (1 / low if low else math.inf)
    if low > 1 + tolerance:
        return "regression"
    if high < 1 / (1 + tolerance):
        return "better"
    return "same"

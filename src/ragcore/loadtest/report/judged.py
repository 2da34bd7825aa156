"""The figures that a comparison judges: percentiles of each phase, and the figures of the summaries."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragcore.loadtest.driving.outcome import Outcome
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.report.direction import Direction, better, floor, is_share
from ragcore.loadtest.report.results import Run

__all__ = ["FEWEST", "PERCENTILES", "Judged", "by_phase", "of_phases", "of_summaries"]

# A phase with fewer questions is not judged.
FEWEST = 5
LATENCIES = ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "max_s")


@dataclass(frozen=True, slots=True)
class Judged:
    """A figure's value in each run.

    Attributes:
        direction: the better direction; None: the figure is shown but not judged.
        least: the largest difference to ignore, in the figure's unit.
    """

    name: str
    before: Sequence[float]
    after: Sequence[float]
    direction: Direction | None
    least: float

    @property
    def counts(self) -> bool:
        """Whether the figure counts unwanted events."""
        return self.direction == "lower" and all(isinstance(value, int) for value in (*self.before, *self.after))

    @property
    def positive(self) -> bool:
        """Whether the value is positive in every run, so that it has a ratio and a logarithm."""
        return min(*self.before, *self.after) > 0

    @property
    def scatters(self) -> bool:
        """Whether the figure scatters like a latency. Counts and shares don't."""
        return self.positive and not self.counts and not is_share(self.name)

    @property
    def means(self) -> tuple[float, float]:
        """The means of both sides; geometric means if all values are positive."""
        mean = statistics.geometric_mean if self.positive else statistics.fmean
        return mean(self.before), mean(self.after)

    @property
    def matters(self) -> bool:
        """Whether the figure has a better direction and the difference is large enough to count."""
        before, after = self.means
        return self.direction is not None and abs(after - before) > self.least


def of_phases(before: Sequence[Run], after: Sequence[Run]) -> Iterator[Judged]:
    """Yield percentiles of each phase that all runs have."""
    sides = [[by_phase(run.outcomes) for run in runs] for runs in (before, after)]
    for phase in sides[0][0]:
        for name, values_of, share in PERCENTILES:
            each = [[values_of(run.get(phase, ())) for run in side] for side in sides]
            if min(len(values) for side in each for values in side) < FEWEST:
                continue
            one, other = ([percentile(values, share) for values in side] for side in each)
            yield Judged(f"{phase}, {name}", one, other, "lower", floor(name))


def of_summaries(before: Sequence[Run], after: Sequence[Run]) -> Iterator[Judged]:
    """Yield the figures that all runs have. If the runs have outcomes, `of_phases` judges the latencies, so they are only shown here."""
    measured = any(run.outcomes for run in before)
    for name in before[0].summary["figures"]:
        one, other = ([run.summary["figures"].get(name) for run in side] for side in (before, after))
        if all(map(_is_number, (*one, *other))):
            direction = None if measured and name in LATENCIES else better(name)
            yield Judged(name, one, other, direction, floor(name))


def by_phase(outcomes: Sequence[Outcome]) -> Mapping[str, list[Outcome]]:
    """Group outcomes by phase, in order of time, without the warm-up."""
    phases: dict[str, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda one: one.due):
        if not outcome.phase.startswith("warm-up"):
            phases.setdefault(outcome.phase, []).append(outcome)
    return phases


def _waited(outcomes: Sequence[Outcome]) -> list[float]:
    return [one.seconds for one in outcomes]


def _first_token(outcomes: Sequence[Outcome]) -> list[float]:
    return [value for one in outcomes if (value := one.first_token_seconds) is not None]


# The figures of a phase: name, values and percentile.
PERCENTILES = (("p50_s", _waited, 0.5), ("p95_s", _waited, 0.95), ("first_token_p50_s", _first_token, 0.5))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

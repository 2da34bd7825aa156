"""The figures of runs that a comparison judges: percentiles of each phase, and those of the summaries."""

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

# Of a phase with fewer questions nothing is said.
FEWEST = 5
LATENCIES = ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "max_s")


@dataclass(frozen=True, slots=True)
class Judged:
    """A figure's value in each run.

    Attributes:
        direction: which way it is better; None: it is shown and not judged.
        least: a difference up to this does not count, in the figure's unit.
    """

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
        """Whether it has a ratio and a logarithm in every run."""
        return min(*self.before, *self.after) > 0

    @property
    def scatters(self) -> bool:
        """Whether it is measured, and so scatters as times do; counts and shares near their top do not."""
        return self.positive and not self.counts and not is_share(self.name)

    @property
    def means(self) -> tuple[float, float]:
        """Of both sides: geometric, where all values are above zero."""
        mean = statistics.geometric_mean if self.positive else statistics.fmean
        return mean(self.before), mean(self.after)

    @property
    def matters(self) -> bool:
        """Whether it has a better direction, and differs by enough to count."""
        before, after = self.means
        return self.direction is not None and abs(after - before) > self.least


def of_phases(before: Sequence[Run], after: Sequence[Run]) -> Iterator[Judged]:
    """Percentiles of each phase that every run has."""
    sides = [[by_phase(run.outcomes) for run in runs] for runs in (before, after)]
    for phase in sides[0][0]:
        for name, values_of, share in PERCENTILES:
            each = [[values_of(run.get(phase, ())) for run in side] for side in sides]
            if min(len(values) for side in each for values in side) < FEWEST:
                continue
            one, other = ([percentile(values, share) for values in side] for side in each)
            yield Judged(f"{phase}, {name}", one, other, "lower", floor(name))


def of_summaries(before: Sequence[Run], after: Sequence[Run]) -> Iterator[Judged]:
    """The figures that every run has; not judged, if the phases judge them."""
    measured = any(run.outcomes for run in before)
    for name in before[0].summary["figures"]:
        one, other = ([run.summary["figures"].get(name) for run in side] for side in (before, after))
        if all(map(_is_number, (*one, *other))):
            direction = None if measured and name in LATENCIES else better(name)
            yield Judged(name, one, other, direction, floor(name))


def by_phase(outcomes: Sequence[Outcome]) -> Mapping[str, list[Outcome]]:
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

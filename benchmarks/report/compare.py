"""Two runs side by side: ratios, how much of them is noise, and what is a regression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from benchmarks.driving.outcome import Outcome
from benchmarks.estimates import percentile, ratio_interval
from benchmarks.figures import Table
from benchmarks.report.results import read_outcomes, read_summary

__all__ = ["Comparison", "Row", "better", "compare"]

Direction: TypeAlias = Literal["lower", "higher"]
# Assumed of a figure of which nobody knows how it scatters.
ASSUMED_NOISE = 0.25
FEWEST = 5
LOWER = ("_s", "_ms", "_us", "_mb", "_kb", "cpu_ratio", "hung", "late", "wrong", "violations", "unrecovered", "_growth")
HIGHER = (
    "rate",
    "rps",
    "qps",
    "per_s",
    "goodput",
    "recall",
    "ndcg",
    "mrr",
    "highest_concurrency",
    "goodput_ratio_to_peak",
    "copy_ratio",
    "rps_ratio_50",
)
# Their values depend on chance or on how long the run was.
NOT_JUDGED = ("rss_growth_mb", "rss_end_mb", "seconds")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both runs.

    Attributes:
        ratio: after / before.
        low, high: 95 % interval of the ratio, by the bootstrap over the questions; None: not known.
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
    """What changed between two runs."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[str]:
        """In words."""
        return [
            f"{row.figure}: {row.before:.4g} → {row.after:.4g} ({row.ratio:.2f} ×)"
            for row in self.rows
            if row.verdict == "regression"
        ]

    def table(self) -> Table:
        """For people."""
        rows: list[dict[str, Any]] = [
            {
                "figure": row.figure,
                "before": row.before,
                "after": row.after,
                "ratio": f"{row.ratio:.3f}",
                "95 %": "" if row.low is None or row.high is None else f"{row.low:.2f}–{row.high:.2f}",
                "": row.verdict,
            }
            for row in self.rows
        ]
        return Table("after / before", rows)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ratios": {row.figure: row.ratio for row in self.rows},
            "regressions": self.regressions,
            "missed": self.missed,
            "notes": self.notes,
        }


def better(figure: str) -> Direction | None:
    """Which direction is the better one, by the figure's name; None: neither."""
    last = figure.rpartition(".")[2]
    if last in NOT_JUDGED:
        return None
    if last.endswith(HIGHER) or last.startswith(("recall", "ndcg", "mrr", "qps", "goodput")):
        return "higher"
    return "lower" if last.endswith(LOWER) else None


def compare(before: Path, after: Path, *, tolerance: float = 0.1) -> Comparison:
    """Compare two runs of the same scenario.

    A regression is a ratio that is worse than 1 by more than the tolerance with the whole of its interval. Latencies' intervals come from the
    questions of each phase; those of one phase wait for each other, so the true noise is somewhat larger. Other figures are taken to scatter by 25 %.

    Raises:
        ValueError: a folder holds no run, or they are of different scenarios.
    """
    one, other = read_summary(before), read_summary(after)
    if one["scenario"] != other["scenario"]:
        raise ValueError(f"{before} is a run of {one['scenario']}, {after} one of {other['scenario']}")
    comparison = Comparison(missed=[*other["failed"], *other["invalid"]])
    for what in ("machine", "settings"):
        if one[what] != other[what]:
            changed = sorted(
                name for name in {*one[what], *other[what]} if one[what].get(name) != other[what].get(name)
            )
            comparison.notes.append(f"{what} differ: {', '.join(changed)}")
    comparison.rows += _of_phases(read_outcomes(before), read_outcomes(after), tolerance)
    measured = bool(comparison.rows)
    for name in one["figures"]:
        first, second = one["figures"][name], other["figures"].get(name)
        if _is_number(first) and _is_number(second):
            judged = not (measured and name.endswith("_s"))  # the phases' rows judge it with their noise
            comparison.rows.append(_of_figure(name, first, second, tolerance, judged=judged))
    return comparison


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _of_figure(name: str, before: float, after: float, tolerance: float, *, judged: bool) -> Row:
    ratio = after / before if before else (1.0 if after == before else math.inf)
    noise = 0.0 if isinstance(before, int) and isinstance(after, int) else ASSUMED_NOISE
    if "rate" in name or name.startswith(("recall", "ndcg", "mrr")):
        noise = 0.01  # a share, near its top
        tolerance = min(tolerance, 0.01)
    verdict = _verdict(better(name) if judged else None, ratio * (1 - noise), ratio * (1 + noise), tolerance)
    return Row(name, before, after, ratio, None, None, verdict)


def _of_phases(before: Sequence[Outcome], after: Sequence[Outcome], tolerance: float) -> list[Row]:
    rows = []
    for phase in dict.fromkeys(outcome.phase for outcome in before):
        one = [outcome.seconds for outcome in before if outcome.phase == phase]
        other = [outcome.seconds for outcome in after if outcome.phase == phase]
        if phase.startswith("warm-up") or min(len(one), len(other)) < FEWEST:
            continue
        for name, share in (("p50", 0.5), ("p95", 0.95)):
            ratio, low, high = ratio_interval(one, other, share=share)
            values = percentile(one, share), percentile(other, share)
            rows.append(Row(f"{phase}, {name}_s", *values, ratio, low, high, _verdict("lower", low, high, tolerance)))
    return rows


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

"""Two runs side by side: ratios, how much of them is noise, and what is a regression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ragcore.errors import InvalidInput
from ragcore.loadtest.driving.outcome import Outcome
from ragcore.loadtest.estimates import percentile, ratio_interval
from ragcore.loadtest.figures import Table
from ragcore.loadtest.report.results import read_outcomes, read_summary

__all__ = ["Comparison", "Row", "better", "compare"]

Direction: TypeAlias = Literal["lower", "higher"]
# Assumed of a figure of which nobody knows how it scatters.
ASSUMED_NOISE = 0.25
# Beyond the bootstrap's: how much two runs of the same differ on a machine that does other things too, where a phase was short or long.
SHORT_SECONDS, SHORT_NOISE, LONG_NOISE = 10.0, 0.15, 0.05
FEWEST = 5
# By how much a figure must differ at all, by its unit; and shares, whose scatter is small near their top.
FLOORS = {"_s": 0.01, "_ms": 2.0, "_us": 0.5, "_mb": 5.0, "_kb": 64.0, "question": 16.0}
SHARES = ("success_rate", "slo_share", "recall", "ndcg", "mrr")
SHARE_NOISE = 0.01
HIGHER = (
    *(
        "success_rate",
        "slo_share",
        "rps",
        "per_s",
        "goodput",
        "recall",
        "ndcg",
        "mrr",
        "qps",
        "highest_concurrency",
        "highest_rate",
    ),
    *("goodput_ratio_to_peak", "copy_ratio", "rps_ratio_50"),
)
LOWER = (
    *(
        "_s",
        "_ms",
        "_us",
        "_mb",
        "_kb",
        "cpu_ratio",
        *("cpu_ratio_5", "cpu_ratio_50", "cpu_ratio_300"),
        "hung",
        "late",
        "wrong",
        "degraded",
        "violations",
        "unrecovered",
        "of_100",
    ),
    *("rss_growth_kb_per_question", "fd_growth", "leaked_connections", "leaked_sockets", "leaked_tasks"),
)
COUNTS = ("errors.",)
LATENCIES = ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "max_s")
# Their values depend on chance, on how long the run was, or on the driver.
NOT_JUDGED = (
    "rss_growth_mb",
    "rss_end_mb",
    "seconds",
    "driver_lag_p99_ms",
    "driver_cpu",
    "lateness_p99_ms",
    "p50_spread",
)


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
        """For programs: one flat object; None where there is no ratio."""
        ratios = {f"ratio.{row.figure}": row.ratio if math.isfinite(row.ratio) else None for row in self.rows}
        worse = {
            f"regression.{row.figure}": row.ratio if math.isfinite(row.ratio) else None
            for row in self.rows
            if row.verdict == "regression"
        }
        return {"regressions": len(worse), "missed": len(self.missed), **worse, **ratios}


def better(figure: str) -> Direction | None:
    """Which direction is the better one, by the figure's name; None: neither."""
    last = figure.rpartition(".")[2]
    if last in NOT_JUDGED or last.endswith("_low"):
        return None
    if figure.startswith(COUNTS):
        return "lower"
    if last.endswith(HIGHER) or last.startswith(HIGHER):
        return "higher"
    return "lower" if last.endswith(LOWER) else None


def compare(before: Path, after: Path, *, tolerance: float = 0.1) -> Comparison:
    """Compare two runs of the same scenario.

    A regression is a ratio that is worse than 1 by more than the tolerance with the whole of its interval. Latencies' intervals come from the
    questions of each phase, by the bootstrap; those of one phase wait for each other, so 15 % are added where it was short, else 5 %. Other figures are
    taken to scatter by 25 %, shares by 1 %.

    Raises:
        InvalidInput: a folder holds no run, or they are of different scenarios.
    """
    one, other = read_summary(before), read_summary(after)
    if one["scenario"] != other["scenario"]:
        raise InvalidInput(f"{before} is a run of {one['scenario']}, {after} one of {other['scenario']}")
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
            judged = not (measured and name in LATENCIES)  # the phases' rows judge it with their noise
            comparison.rows.append(_of_figure(name, first, second, tolerance, judged=judged))
    return comparison


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _of_figure(name: str, before: float, after: float, tolerance: float, *, judged: bool) -> Row:
    ratio = after / before if before else (1.0 if after == before else math.inf)
    direction = better(name) if judged else None
    floor = next((least for unit, least in FLOORS.items() if name.endswith(unit) and not name.endswith("per_s")), 0.0)
    last = name.rpartition(".")[2]
    if direction is None:
        verdict = ""
    elif abs(after - before) <= floor:
        verdict = "same"
    elif before <= 0 or after <= 0:
        # Of what is not above zero there is no ratio: any change beyond the floor counts.
        verdict = "better" if (after < before) == (direction == "lower") else "regression"
    elif last.startswith(SHARES):
        verdict = _verdict(direction, ratio * (1 - SHARE_NOISE), ratio * (1 + SHARE_NOISE), min(tolerance, SHARE_NOISE))
    else:
        noise = 0.0 if isinstance(before, int) and isinstance(after, int) else ASSUMED_NOISE
        verdict = _verdict(direction, ratio * (1 - noise), ratio * (1 + noise), tolerance)
    return Row(name, before, after, ratio, None, None, verdict)


def _of_phases(before: Sequence[Outcome], after: Sequence[Outcome], tolerance: float) -> list[Row]:
    rows = []
    for phase in dict.fromkeys(outcome.phase for outcome in before):
        if phase.startswith("warm-up"):
            continue
        sides = [[outcome for outcome in side if outcome.phase == phase] for side in (before, after)]
        if min(map(len, sides)) < FEWEST:
            continue
        span = min(max(one.ended for one in side) - min(one.started for one in side) for side in sides)
        noise = SHORT_NOISE if span < SHORT_SECONDS else LONG_NOISE
        seconds = [[outcome.seconds for outcome in side] for side in sides]
        first = [[value for outcome in side if (value := outcome.first_token_seconds) is not None] for side in sides]
        for name, (one, other), share in (
            ("p50_s", seconds, 0.5),
            ("p95_s", seconds, 0.95),
            ("first_token_p50_s", first, 0.5),
        ):
            if min(len(one), len(other)) < FEWEST:
                continue
            ratio, low, high = ratio_interval(one, other, share=share)
            low, high = low * (1 - noise), high * (1 + noise)
            values = percentile(one, share), percentile(other, share)
            apart = abs(values[1] - values[0]) > FLOORS["_s"]
            verdict = _verdict("lower", low, high, tolerance) if apart else "same"
            rows.append(Row(f"{phase}, {name}", *values, ratio, low, high, verdict))
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

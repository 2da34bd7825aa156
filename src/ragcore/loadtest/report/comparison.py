"""What changed between two sides of runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ragcore.loadtest.report.direction import Direction

__all__ = ["Comparison", "Row", "ratio_of", "verdict_of"]


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


def ratio_of(before: float, after: float) -> float:
    """after / before; 1 of two zeros, infinity of one."""
    return after / before if before else (1.0 if after == before else math.inf)


def verdict_of(direction: Direction | None, low: float, high: float, tolerance: float) -> str:
    """Of a ratio's interval: a regression or better, if all of it is beyond the tolerance."""
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

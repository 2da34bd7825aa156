"""The result of a comparison of two sides of runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ragcore.loadtest.report.direction import Direction

__all__ = ["Comparison", "Row", "ratio_of", "verdict_of"]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure on both sides.

    Attributes:
        before, after: the value, or the mean of several runs; the geometric mean if all values are positive.
        ratio: after / before.
        low, high: 95 % interval of the ratio; None: not known.
        verdict: "regression", "better", "same" (within the noise and the tolerance), or "" if the figure is not judged.
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
    """The changes between two sides, with notes and criteria that were not met."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Row]:
        """The figures that got worse."""
        return [row for row in self.rows if row.verdict == "regression"]

    def to_dict(self) -> dict[str, Any]:
        """Return one flat object for programs; a ratio that does not exist is None."""
        ratios = {f"ratio.{row.figure}": row.ratio if math.isfinite(row.ratio) else None for row in self.rows}
        worse = {
            f"regression.{row.figure}": row.ratio if math.isfinite(row.ratio) else None for row in self.regressions
        }
        return {"regressions": len(worse), "missed": len(self.missed), **worse, **ratios}


def ratio_of(before: float, after: float) -> float:
    """Return after / before; 1 if both are zero, infinity if only `before` is zero."""
    return after / before if before else (1.0 if after == before else math.inf)


def verdict_of(direction: Direction | None, low: float, high: float, tolerance: float) -> str:
    """Return "regression" or "better" if the whole interval of the ratio is beyond the tolerance, else "same"."""
    if direction is None:
        return ""
    if direction == "higher":
        # Use the reciprocal, so that lower is better.
        low, high = (1 / high if high else math.inf), (1 / low if low else math.inf)
    if low > 1 + tolerance:
        return "regression"
    if high < 1 / (1 + tolerance):
        return "better"
    return "same"

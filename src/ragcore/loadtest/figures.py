"""What a scenario returns."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ragcore.loadtest.driving.monitor import Sample
from ragcore.loadtest.driving.outcome import Outcome

__all__ = ["Chart", "Criterion", "Figures", "Line", "Shade", "Table", "Value", "say"]

Value: TypeAlias = float | int | str | None


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a chart."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True, slots=True)
class Shade:
    """A stretch of time in which a fault struck, in seconds since the run began."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture of the report.

    Attributes:
        points: single points, not a line.
        log: axes that are logarithmic: "x", "y", "xy" or "".
        shades: stretches of the x axis.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    points: bool = False
    log: Literal["", "x", "y", "xy"] = ""
    shades: Sequence[Shade] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the report: rows with the same keys."""

    title: str
    rows: Sequence[dict[str, Value]]


@dataclass(frozen=True, slots=True)
class Criterion:
    """What a run had to reach.

    Attributes:
        text: the bound and what was measured: "success 97.6 % (more than 95 %)".
    """

    text: str
    reached: bool


@dataclass
class Figures:
    """Named numbers, criteria, and what a report shows besides.

    Attributes:
        values: by name, for a program to read.
        criteria: those that were reached and those that were not.
        invalid: why the run should not be believed.
        notes: what a reader should know.
        outcomes: of each question.
        samples: of the target's process.
        settings: with which the scenario ran.
    """

    values: dict[str, Value] = field(default_factory=dict)
    criteria: list[Criterion] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def expect(self, holds: bool, criterion: str) -> None:
        """Note a criterion, and whether it was reached."""
        self.criteria.append(Criterion(criterion, holds))

    @property
    def failed(self) -> list[str]:
        """The criteria that were not reached."""
        return [one.text for one in self.criteria if not one.reached]

    @property
    def exit_code(self) -> int:
        """0: all reached; 1: a criterion was not; 3: the run is not to be believed."""
        return 3 if self.invalid else 1 if self.failed else 0


def say(text: str) -> None:
    """Progress and messages, on stderr: of a terminal's width, of 80 columns where it has none."""
    for line in textwrap.wrap(text, shutil.get_terminal_size().columns, break_on_hyphens=False) or [""]:
        print(line, file=sys.stderr, flush=True)

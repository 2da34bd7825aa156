"""The result of a scenario: figures, criteria, tables and charts."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ragcore.loadtest.driving.monitor import Sample
from ragcore.loadtest.driving.outcome import Outcome

__all__ = ["Chart", "Criterion", "Figures", "Line", "Mark", "Shade", "Table", "Value", "say"]

Value: TypeAlias = float | int | str | None


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a chart.

    Attributes:
        intervals: (low, high) of each point, drawn as a vertical line; (): none.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    intervals: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line with a text, such as a recommended value."""

    name: str
    x: float


@dataclass(frozen=True, slots=True)
class Shade:
    """A range of the x axis with a name: a period in which a fault was active, in seconds since the run began, or an interval."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of the report.

    Attributes:
        points: draw single points instead of a line.
        log: the logarithmic axes: "x", "y", "xy" or "".
        shades: ranges to shade on the x axis.
        marks: vertical lines.
        bars: draw bars instead of lines: each y is the height between its x and the next one, so there is one more x than y.
        ticks: names of the places 0, 1, … on the x axis; (): numbers.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    points: bool = False
    log: Literal["", "x", "y", "xy"] = ""
    shades: Sequence[Shade] = ()
    marks: Sequence[Mark] = ()
    bars: bool = False
    ticks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the report: rows with the same keys."""

    title: str
    rows: Sequence[dict[str, Value]]


@dataclass(frozen=True, slots=True)
class Criterion:
    """A condition that a run had to meet.

    Attributes:
        text: the measured value and the limit: "success 97.6 % (more than 95 %)".
        reached: whether the run met it.
    """

    text: str
    reached: bool


@dataclass
class Figures:
    """Named numbers, criteria, and the contents of the report.

    Attributes:
        values: the figures by name, for programs.
        criteria: all criteria, met or not.
        invalid: reasons why the run is invalid.
        notes: remarks for the reader.
        outcomes: the outcome of each question.
        samples: memory and CPU of the target's process.
        settings: the options of the run.
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
        """Add a criterion; `holds`: whether the run met it."""
        self.criteria.append(Criterion(criterion, holds))

    @property
    def failed(self) -> list[str]:
        """The criteria that were not met."""
        return [one.text for one in self.criteria if not one.reached]

    @property
    def exit_code(self) -> int:
        """0: all criteria are met; 1: a criterion is not met; 3: the run is invalid."""
        return 3 if self.invalid else 1 if self.failed else 0


def say(text: str) -> None:
    """Print a message to stderr, wrapped to the terminal's width, or to 80 columns without a terminal."""
    for line in textwrap.wrap(text, shutil.get_terminal_size().columns, break_on_hyphens=False) or [""]:
        print(line, file=sys.stderr, flush=True)

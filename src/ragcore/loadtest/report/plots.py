"""Draws charts as SVG, without a plotting library, so that each report has its charts on every machine.

Colours of text and lines come from the style sheet of the page, so a chart is readable on light and dark pages and in print.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from ragcore.loadtest.figures import Chart, Line

__all__ = ["COLOURS", "draw"]

# Colour-blind readers can distinguish these (Okabe and Ito, "Color Universal Design"). P. Tol's olive replaces black, which is invisible on a dark page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#999933")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "1 4", "12 4", "6 2 2 2")
# A line with more points is drawn without markers.
MARKED = 100
# Sizes in pixels of a chart that is not scaled.
WIDTH, PLOT, LEFT, RIGHT, TOP, BOTTOM = 640, 230, 60, 16, 12, 46
ROW, SIZE, CHARACTER = 18, 12, 6.8
MOST_TICKS = 7
# Long names of places are turned by this many degrees.
SLANT = 35


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps values to pixels."""

    low: float
    high: float
    log: bool
    start: float
    length: float

    def place(self, value: float) -> float:
        low, high, at = (
            (math.log10(self.low), math.log10(self.high), math.log10(max(value, self.low)))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + self.length * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        if self.log:
            return _decades(self.low, self.high)
        step = _step((self.high - self.low) / MOST_TICKS)
        return [
            number * step
            for number in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        ]


def draw(charts: Sequence[Chart]) -> list[str]:
    """Return an `<svg>` element for each chart."""
    return [_svg(chart) for chart in charts]


def _svg(chart: Chart) -> str:
    lines = [_finite(line, chart) for line in chart.lines]
    shown = [(number, line) for number, line in enumerate(lines) if len(line.ys)]
    names = [line.name for _, line in shown if len(shown) > 1 or chart.bars]
    rows = list(_legend_rows(names))
    top = TOP + ROW * len(rows) + (ROW if chart.marks or chart.shades else 0)
    bottom = BOTTOM + (_drop(chart.ticks) if _slanted(chart.ticks) else 0)
    across, up = _axes(chart, [line for _, line in shown], top)
    parts = [
        *_shades(chart, across, top),
        *_grid(chart, across, up, top),
        *itertools.chain.from_iterable(_series(chart, number, line, across, up) for number, line in shown),
        *_marks(chart, across, top),
        *_legend(rows, {line.name: number for number, line in shown}, chart),
        _text(LEFT + (WIDTH - LEFT - RIGHT) / 2, top + PLOT + bottom - 8, chart.x, "middle"),
        f'<g transform="translate(14 {top + PLOT / 2:.0f}) rotate(-90)">{_text(0, 0, chart.y, "middle")}</g>',
    ]
    height = top + PLOT + bottom
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="{SIZE}" fill="none" style="color:var(--muted, #6b6b6b)">'
        f"<title>{escape(chart.title)}</title>{''.join(parts)}</svg>"
    )


def _finite(line: Line, chart: Chart) -> Line:
    """Return the points of a line that can be drawn; values of a logarithmic axis must be positive."""
    if chart.bars:
        return line

    def drawable(x: float, y: float) -> bool:
        return (
            math.isfinite(x)
            and math.isfinite(y)
            and not ("x" in chart.log and x <= 0)
            and not ("y" in chart.log and y <= 0)
        )

    intervals = line.intervals or [(y, y) for y in line.ys]
    kept = [(x, y, both) for x, y, both in zip(line.xs, line.ys, intervals, strict=True) if drawable(x, y)]
    return Line(
        line.name,
        [x for x, _, _ in kept],
        [y for _, y, _ in kept],
        [both for _, _, both in kept] if line.intervals else (),
    )


def _axes(chart: Chart, lines: Sequence[Line], top: float) -> tuple[_Axis, _Axis]:
    xs = [x for line in lines for x in line.xs] + [mark.x for mark in chart.marks]
    ys = [y for line in lines for y in (*line.ys, *itertools.chain.from_iterable(line.intervals)) if math.isfinite(y)]
    if chart.ticks:
        left, right = -0.5, len(chart.ticks) - 0.5
    else:
        left, right = _range(xs, log="x" in chart.log)
    if "y" in chart.log:
        low, high = _range(ys, log=True)
        low, high = 10 ** math.floor(math.log10(low) + 1e-9), 10 ** math.ceil(math.log10(high) - 1e-9)
        high = high if high > low else 10 * low
    else:
        low, high = _range(ys, log=False)
        room = 0.05 * (high - low)
        # A chart of values that are never negative begins at 0. Measures from 0 to 1 end at 1.
        low = 0.0 if min(ys, default=0) >= 0 else low - room
        high = 1.02 if 0.5 < high <= 1 else high + room
    return (
        _Axis(left, right, "x" in chart.log, LEFT, WIDTH - LEFT - RIGHT),
        _Axis(low, high, "y" in chart.log, top + PLOT, -PLOT),
    )


def _range(values: Sequence[float], *, log: bool) -> tuple[float, float]:
    low, high = min(values, default=1 if log else 0), max(values, default=10 if log else 1)
    if high > low:
        return low, high
    return (low / 2, low * 2) if log else (low - (abs(low) or 1) / 2, low + (abs(low) or 1) / 2)


def _step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, … times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _decades(low: float, high: float) -> list[float]:
    """Return ticks of a logarithmic axis: powers of ten and, if there are few, also 2 and 5 times each of them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1,) if last - first > 3 else (1, 2, 5)
    found = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


def _grid(chart: Chart, across: _Axis, up: _Axis, top: float) -> Iterator[str]:
    for y in up.ticks():
        at = up.place(y)
        yield _line(LEFT, at, WIDTH - RIGHT, at, "currentColor", 'stroke-opacity=".22"')
        yield _text(LEFT - 7, at + 4, _number(y), "end")
    yield _line(LEFT, top + PLOT, WIDTH - RIGHT, top + PLOT, "currentColor")
    places = list(enumerate(chart.ticks)) if chart.ticks else [(x, _number(x)) for x in _x_ticks(chart, across)]
    for x, name in places:
        at = across.place(x)
        yield _line(at, top + PLOT, at, top + PLOT + 4, "currentColor")
        if _slanted(chart.ticks):
            yield f'<g transform="translate({at + 4:.1f} {top + PLOT + 14}) rotate(-{SLANT})">{_text(0, 0, name, "end")}</g>'
        else:
            yield _text(at, top + PLOT + 18, name, "middle")


def _slanted(ticks: Sequence[str]) -> bool:
    """Whether names of places are too long to stand beside each other."""
    return bool(ticks) and CHARACTER * (max(map(len, ticks)) + 1) > (WIDTH - LEFT - RIGHT) / len(ticks)


def _drop(ticks: Sequence[str]) -> int:
    """Return how far slanted names reach down."""
    return round(CHARACTER * max(map(len, ticks)) * math.sin(math.radians(SLANT)))


def _x_ticks(chart: Chart, across: _Axis) -> list[float]:
    """Return the ticks of the x axis. A logarithmic axis with few values shows these values."""
    values = sorted({x for line in chart.lines for x in line.xs if math.isfinite(x) and x > 0})
    if across.log and len(values) <= 12:
        apart = [values[0]] if values else []
        for value in values:
            if across.place(value) - across.place(apart[-1]) > 30:
                apart.append(value)
        return apart
    return across.ticks()


def _series(chart: Chart, number: int, line: Line, across: _Axis, up: _Axis) -> Iterator[str]:
    colour = COLOURS[number % len(COLOURS)]
    if chart.bars:
        floor = up.place(up.low)
        for (left, right), y in zip(itertools.pairwise(line.xs), line.ys, strict=True):
            x, width, at = across.place(left), across.place(right) - across.place(left), up.place(y)
            yield (
                f'<rect x="{x:.1f}" y="{at:.1f}" width="{width:.1f}" height="{floor - at:.1f}" fill="{colour}" '
                f'fill-opacity=".45" stroke="{colour}" stroke-width=".6"/>'
            )
        return
    # Series at the same places of a named axis stand beside each other.
    aside = 9 * (number - (len(chart.lines) - 1) / 2) if chart.ticks else 0
    points = [(across.place(x) + aside, up.place(y)) for x, y in zip(line.xs, line.ys, strict=True)]
    for (x, _), (low, high) in zip(points, line.intervals or [], strict=bool(line.intervals)):
        if math.isfinite(low) and math.isfinite(high):
            yield _line(x, up.place(low), x, up.place(high), colour, 'stroke-width="2"')
    if not chart.points and not chart.ticks:
        dashed = f' stroke-dasharray="{DASHES[number % len(DASHES)]}"' if number else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{path}" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"{dashed}/>'
    if chart.points or chart.ticks or len(points) <= MARKED // 3:
        radius, opacity = (2, 0.6) if chart.points else (3.2, 1)
        yield f'<g fill="{colour}" fill-opacity="{opacity}">'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>' for x, y in points)
        yield "</g>"


def _shades(chart: Chart, across: _Axis, top: float) -> Iterator[str]:
    names = list(dict.fromkeys(shade.name for shade in chart.shades))
    free = -math.inf
    for shade in chart.shades:
        begin, end = (across.place(min(max(x, across.low), across.high)) for x in (shade.begin, shade.end))
        # With lines, a shade must not have the colour of a line.
        colour = COLOURS[(names.index(shade.name) + 1) % len(COLOURS)] if not chart.marks else "currentColor"
        yield (
            f'<rect x="{begin:.1f}" y="{top}" width="{max(end - begin, 1):.1f}" height="{PLOT}" fill="{colour}" '
            'fill-opacity=".14"/>'
        )
        half = CHARACTER * len(shade.name) / 2
        at = min(max((begin + end) / 2, LEFT + half), WIDTH - RIGHT - half)
        if not chart.marks and at - half > free:
            free = at + half
            yield _text(at, top - 5, shade.name, "middle")


def _marks(chart: Chart, across: _Axis, top: float) -> Iterator[str]:
    for mark in chart.marks:
        at, half = across.place(mark.x), CHARACTER * len(mark.name) / 2
        yield _line(at, top, at, top + PLOT, "currentColor", 'stroke-width="1.6" stroke-dasharray="5 3"')
        yield _text(min(max(at, LEFT + half), WIDTH - RIGHT - half), top - 5, mark.name, "middle")


def _legend_rows(names: Iterable[str]) -> Iterator[list[str]]:
    row: list[str] = []
    used = 0.0
    for name in names:
        needed = 40 + CHARACTER * len(name)
        if row and used + needed > WIDTH - LEFT - RIGHT:
            yield row
            row, used = [], 0.0
        row.append(name)
        used += needed
    if row:
        yield row


def _legend(rows: Sequence[Sequence[str]], numbers: dict[str, int], chart: Chart) -> Iterator[str]:
    for place, row in enumerate(rows):
        x, y = float(LEFT), TOP + ROW * place + 4
        for name in row:
            number = numbers[name]
            colour = COLOURS[number % len(COLOURS)]
            lined = not (chart.points or chart.ticks or chart.bars)
            dashed = f' stroke-dasharray="{DASHES[number % len(DASHES)]}"' if number and lined else ""
            if lined:
                yield _line(x, y, x + 24, y, colour, f'stroke-width="1.8"{dashed}')
            else:
                yield f'<rect x="{x + 8:.0f}" y="{y - 5}" width="10" height="10" fill="{colour}" fill-opacity=".7"/>'
            yield _text(x + 29, y + 4, name, "start")
            x += 40 + CHARACTER * len(name)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">{escape(text)}</text>'


def _number(value: float) -> str:
    text = f"{value:.6g}"
    return f"{value:,.0f}" if abs(value) >= 1_000 and value == int(value) else "0" if text in ("-0", "0") else text

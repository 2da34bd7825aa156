"""Shows a run or a comparison as text, at most as wide as the terminal; 80 columns without a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ragcore.loadtest.figures import Figures, Table, Value
from ragcore.loadtest.report.comparison import Comparison, Row
from ragcore.loadtest.words import heading, label, number, quantity, worth_showing

__all__ = ["changed", "draw_comparison", "draw_criteria", "draw_table", "draw_values"]

# Tables with more rows are shown only in the report.
MOST_ROWS = 40
GAP = 2


def draw_table(console: Console, table: Table) -> None:
    """Draw a table without its empty columns. A table that is too wide is split into parts, each with the first column."""
    if not table.rows or len(table.rows) > MOST_ROWS:
        return
    names = [name for place, name in enumerate(table.rows[0]) if place == 0 or any(row[name] for row in table.rows)]
    console.print(Text(table.title, style="bold"))
    for part in _parts(table, names, console.width):
        grid = Grid(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="")
        for name in part:
            text = any(isinstance(row[name], str) for row in table.rows)
            grid.add_column(Text(heading(name)), justify="left" if text else "right", overflow="fold")
        for row in table.rows:
            grid.add_row(*(Text(number(name, row[name])) for name in part))
        console.print(grid)
        console.print()


def draw_values(console: Console, values: dict[str, Value]) -> None:
    """Print each figure with its name and unit."""
    _listed(console, [(label(name), quantity(name, value)) for name, value in worth_showing(values).items()])


def draw_criteria(console: Console, figures: Figures) -> None:
    """Print each criterion with its limit, its measured value, and whether it was met."""
    if figures.criteria:
        console.print()
        _listed(console, [("met" if one.reached else "NOT MET", one.text) for one in figures.criteria])


def draw_comparison(console: Console, comparison: Comparison) -> None:
    """Print a comparison without the figures that are zero on both sides. The verdict comes first, so that it is never cut off."""
    console.print(Text("after / before", style="bold"))
    grid = Grid(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="")
    grid.add_column("verdict", no_wrap=True)
    grid.add_column("figure", overflow="fold")
    for name in ("before", "after", "ratio", "95 %"):
        grid.add_column(name, justify="right", no_wrap=True)
    for row in comparison.rows:
        if not row.before and not row.after:
            continue
        interval = "" if row.low is None or row.high is None else f"{row.low:.2f}–{row.high:.2f}"
        before, after = (quantity(row.figure, value) for value in (row.before, row.after))
        cells = (row.verdict, label(row.figure), before, after, f"{row.ratio:.3g}", interval)
        grid.add_row(*map(Text, cells))
    console.print(grid)


def changed(row: Row) -> str:
    """Describe a figure that got worse."""
    before, after = (quantity(row.figure, value) for value in (row.before, row.after))
    return f"{label(row.figure)}: {before} → {after} ({row.ratio:.2f} ×)"


def _listed(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Print two columns. If a text of the second column is long, it continues on the next line in the same column."""
    width = max((len(first) for first, _ in rows), default=0) + GAP
    for first, second in rows:
        # A line never breaks between a number and its percent sign.
        whole = second.replace(" %", "\u00a0%")
        wrapped = textwrap.wrap(whole, max(20, console.width - width), break_on_hyphens=False) or [""]
        for place, line in enumerate(wrapped):
            beginning = "" if place else first
            console.print(Text(f"{beginning:<{width}}" + line.replace("\u00a0", " ")), soft_wrap=True)


def _parts(table: Table, names: list[str], width: int) -> list[list[str]]:
    widths = {name: max(len(heading(name)), *(len(number(name, row[name])) for row in table.rows)) for name in names}
    first = names[0]
    parts, used = [[first]], widths[first]
    for name in names[1:]:
        if used + GAP + widths[name] > width and len(parts[-1]) > 1:
            parts.append([first])
            used = widths[first]
        parts[-1].append(name)
        used += GAP + widths[name]
    return parts

"""Draws charts as SVG with matplotlib. Without matplotlib, a report has only tables."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from ragcore.loadtest.figures import Chart

__all__ = ["COLOURS", "draw"]

# Colour-blind readers can distinguish these (Okabe and Ito, "Color Universal Design"). P. Tol's olive replaces black, which is invisible on a dark page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#999933")
# A line with more points is drawn without markers.
MARKED = 100
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    # This grey is visible on light and dark pages. The page's style sheet sets the colour of the text.
    "grid.color": "#888888",
    "grid.alpha": 0.25,
    "xtick.color": "#888888",
    "ytick.color": "#888888",
    "svg.fonttype": "none",
    "svg.hashsalt": "ragcore",
}


def draw(charts: Sequence[Chart]) -> list[str] | None:
    """Return an `<svg>` element for each chart; None if matplotlib is not installed."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return None
    with mpl.rc_context(STYLE):
        return [_svg(Figure(figsize=(7.2, 3.2), layout="constrained"), chart) for chart in charts]


def _svg(figure: Any, chart: Chart) -> str:
    axes = figure.add_subplot()
    faults = list(dict.fromkeys(shade.name for shade in chart.shades))
    for shade in chart.shades:
        colour = COLOURS[(faults.index(shade.name) + 1) % len(COLOURS)]
        axes.axvspan(shade.begin, shade.end, color=colour, alpha=0.13, lw=0)
        axes.annotate(
            shade.name,
            ((shade.begin + shade.end) / 2, 0.98),
            xycoords=("data", "axes fraction"),
            fontsize=7.5,
            ha="center",
            va="top",
        )
    drawn = 0
    for number, line in enumerate(chart.lines):
        kept = [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
        if not kept:
            continue
        drawn += 1
        size = 3.5 if len(kept) <= MARKED else 0
        style = {"ls": "", "ms": 3, "alpha": 0.6} if chart.points else {"ls": "-", "ms": size, "lw": 1.6}
        axes.plot(*zip(*kept, strict=True), marker="o", color=COLOURS[number % len(COLOURS)], label=line.name, **style)
    if "x" in chart.log:
        axes.set_xscale("log")
        ticks = sorted({x for line in chart.lines for x in line.xs})
        if len(ticks) <= 12:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
            axes.minorticks_off()
    if "y" in chart.log:
        axes.set_yscale("log")
    elif drawn:
        values = [y for line in chart.lines for y in line.ys if math.isfinite(y)]
        if min(values) >= 0:
            axes.set_ylim(0, 1.1 * max(values) or 1)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    if drawn > 1:
        axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]

"""Draws a table of ratios as a self-contained SVG for the manual: one row for each shape, one column for each load."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

__all__ = ["heat_map"]

LEFT, TOP, WIDTH, HEIGHT = 190, 60, 62, 24
# Colours from light (a ratio of 1) to dark (below .9). Each cell also shows its number, so no reader needs the colour.
SHADES = ((0.99, "#e6f4ea", "#111"), (0.95, "#c8e6c9", "#111"), (0.9, "#fff3c4", "#111"), (0.0, "#c62828", "#fff"))


def heat_map(
    title: str, columns: Sequence[str], rows: Mapping[str, Sequence[float | None]], *, columns_are: str, rows_are: str
) -> str:
    """Return an SVG with a title and a description for screen readers.

    Args:
        rows: a list of ratios by row name, one for each column. None: not measured.
    """
    width = LEFT + WIDTH * len(columns) + 20
    height = TOP + HEIGHT * len(rows) + 20
    values = [value for row in rows.values() for value in row if value is not None]
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'aria-labelledby="title description" font-family="system-ui, sans-serif" font-size="12">'
        ),
        f'<title id="title">{html.escape(title)}</title>',
        f'<desc id="description">{html.escape(f"{len(values)} ratios from {min(values):.2f} to {max(values):.2f}.")}</desc>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(10, 20, title, weight="600"),
        _text(10, TOP - 10, rows_are, fill="#555"),
        _text(LEFT, TOP - 24, columns_are, fill="#555"),
    ]
    for number, name in enumerate(columns):
        parts.append(_text(LEFT + WIDTH * (number + 0.5), TOP - 8, name, anchor="middle"))
    for line, (name, ratios) in enumerate(rows.items()):
        top = TOP + HEIGHT * line
        parts.append(_text(10, top + 16, name))
        for number, ratio in enumerate(ratios):
            left = LEFT + WIDTH * number
            if ratio is None:
                continue
            _, colour, ink = next(shade for shade in SHADES if ratio >= shade[0])
            parts.append(
                f'<rect x="{left}" y="{top}" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="3" fill="{colour}"/>'
            )
            parts.append(_text(left + WIDTH / 2 - 1, top + 15, f"{ratio:.2f}", anchor="middle", fill=ink))
    return "\n".join((*parts, "</svg>\n"))


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = "#111", weight: str = "400") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}">{html.escape(text)}</text>'

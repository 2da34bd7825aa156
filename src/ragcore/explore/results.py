"""The base class of results: frames, plots, files, pages and display in notebooks."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

from ragcore.compat.extras import require
from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.types.shown import as_table

__all__ = ["Result", "axes", "caution"]

SHOWN = 50
# At 50 questions and a rate of 0.5, the 95 % interval is ±0.14. With fewer questions it is wider than the differences that users look for.
ENOUGH = 50
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:58rem;margin:2rem auto;padding:0 1.5rem}"
    "svg{max-width:100%;height:auto}table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}"
    "td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}"
    "@media print{body{margin:0;max-width:none}tr,svg{break-inside:avoid}}"
)


def caution(questions: int) -> str:
    """Return a warning for a result with too few questions, else an empty text."""
    if questions >= ENOUGH:
        return ""
    return f"; only {questions:,} question{'s' * (questions != 1)}: label {ENOUGH} or more for a reliable result"


class Result:
    """A table of rows that can be shown, plotted, saved and loaded."""

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows."""
        raise TypeError(f"{type(self).__name__} has no rows")

    def to_frame(self) -> Any:
        """Return the rows as a pandas frame. Extra `notebook`."""
        return require("pandas", extra="notebook", purpose="to_frame").DataFrame(self.to_dicts())

    def to_html(self) -> str:
        """Return a self-contained HTML page without scripts: a summary, plots if matplotlib is installed, and the rows."""
        title = html.escape(repr(self))
        try:
            drawn = "".join(map(_svg, self._plots()))
        except ConfigurationError as error:
            drawn = f"<p>No plots: {html.escape(str(error))}</p>"
        head = f'<meta charset="utf-8"><title>{html.escape(type(self).__name__)}</title><style>{STYLE}</style>'
        return f'<!doctype html><html lang="en"><head>{head}</head><body><p>{title}</p>{drawn}{_table(self.to_dicts())}</body></html>'

    def save(self, path: str | PathLike[str], /) -> None:
        """Write the result to a JSON file."""
        Path(path).write_text(json.dumps(self._state(), ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str], /) -> Self:
        """Load a result that `save` wrote.

        Raises:
            InvalidInput: the file is not such a result.
        """
        try:
            return cls._restored(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInput(f"{path} contains no {cls.__name__}: {error}") from None

    def plot(self) -> Any:
        """Plot the result. Returns matplotlib axes. Extra `notebook`."""
        raise TypeError(f"{type(self).__name__} can't be plotted")

    def _plots(self) -> list[Any]:
        return [self.plot()]

    def _state(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} can't be saved")

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        raise TypeError(f"{cls.__name__} can't be loaded")

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{_table(self.to_dicts()[:SHOWN])}"


def _table(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "<p>no rows</p>"
    return as_table(list(rows[0]), [[_shown(value) for value in row.values()] for row in rows])


def _svg(plot: Any) -> str:
    text = io.StringIO()
    plot.figure.savefig(text, format="svg", metadata={"Date": None})
    written = text.getvalue()
    return written[written.index("<svg") :]


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def axes() -> Any:
    """Create matplotlib axes on white, so that they are readable in a dark notebook too. Extra `notebook`."""
    require("matplotlib", extra="notebook", purpose="plot")
    whole = require("matplotlib.figure", extra="notebook", purpose="plot").Figure
    figure = whole(figsize=(7.0, 3.6), layout="constrained", facecolor="white")
    plot: Any = figure.subplots()
    # pyplot is not used, because it keeps every figure in memory. So the figure itself must tell a notebook how to show it.
    figure._repr_svg_ = lambda: _svg(plot)
    plot.spines[["top", "right"]].set_visible(False)
    return plot

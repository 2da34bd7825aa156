"""The base class of results: frames, plots, files, pages and display in notebooks."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any, Self

from ragcore.compat.extras import require
from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.loadtest.figures import Chart
from ragcore.loadtest.report.page import STYLE
from ragcore.loadtest.report.plots import draw

__all__ = ["Result", "axes", "caution", "percent", "table"]

SHOWN = 50
# At 50 questions and a rate of 0.5, the 95 % interval is ±0.14. With fewer questions it is wider than the differences that users look for.
ENOUGH = 50
# Tables of a page with more rows are folded.
FOLDED = 30
MARK = "◀ recommended"


def caution(questions: int) -> str:
    """Return a warning for a result with too few questions, else an empty text."""
    if questions >= ENOUGH:
        return ""
    return f"; only {questions:,} question{'s' * (questions != 1)}: label {ENOUGH} or more for a reliable result"


def percent(share: float, count: int, what: str = "questions") -> str:
    """Return a share in words, such as "4 % of the questions (8 of 200)"."""
    return f"{100 * share:.0f} % of the {what} ({round(share * count):,} of {count:,})"


class Result:
    """A table of rows that can be shown, plotted, saved and loaded."""

    __slots__ = ()

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows."""
        raise TypeError(f"{type(self).__name__} has no rows")

    def to_pandas(self) -> Any:
        """Return the rows as a frame of pandas. Extra `notebook`."""
        return require("pandas", extra="notebook", purpose="to_pandas").DataFrame(self.to_dicts())

    def to_polars(self) -> Any:
        """Return the rows as a frame of polars, which no extra installs: `pip install polars`.

        Raises:
            ConfigurationError: polars can't be imported.
        """
        try:
            polars = importlib.import_module("polars")
        except ImportError as error:
            raise ConfigurationError(
                f"to_polars needs the package 'polars', which can't be imported ({error}). Run: pip install polars"
            ) from error
        return polars.DataFrame(self.to_dicts(), infer_schema_length=None)

    def to_frame(self) -> Any:
        """Return the rows as a frame of pandas, as `to_pandas` does."""
        return self.to_pandas()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the reader of the figures should know."""
        return ()

    def to_html(self) -> str:
        """Return a self-contained HTML page without scripts, light or dark as the reader's system: a summary, notes, charts and tables."""
        charts = self._charts()
        drawn = "".join(
            f'<figure><figcaption>{escape(chart.title)}</figcaption><div class="scroll">{svg}</div></figure>'
            for chart, svg in zip(charts, draw(charts), strict=True)
        )
        tables = "".join(f"<h2>{escape(title)}</h2>{_folded(rows)}" for title, rows in self._tables() if rows)
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        head = (
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(type(self).__name__)}</title><style>{STYLE.read_text(encoding='utf-8')}</style>"
        )
        body = f"<h1>{escape(type(self).__name__)}</h1><p>{escape(repr(self))}</p>"
        body += f"<ul>{notes}</ul>" * bool(notes)
        return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}{drawn}{tables}</body></html>'

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
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidInput(f"{path} contains no {cls.__name__}: {error}") from None

    def plot(self) -> Any:
        """Plot the result. Returns matplotlib axes. Extra `notebook`."""
        raise TypeError(f"{type(self).__name__} can't be plotted")

    def _charts(self) -> list[Chart]:
        """Return the charts of the page."""
        return []

    def _tables(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Return the tables of the page, with their titles."""
        return [("All rows", self.to_dicts())]

    def _shown(self) -> list[dict[str, Any]]:
        """Return the rows that a notebook shows."""
        return self.to_dicts()[:SHOWN]

    def _state(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} can't be saved")

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        raise TypeError(f"{cls.__name__} can't be loaded")

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        rows, every = self._shown(), self.to_dicts()
        some = len(rows) < len(every) and rows[0].keys() == every[0].keys()
        rest = f"<p>{len(rows)} of {len(every):,} rows; to_pandas() and to_dicts() have all.</p>" * some
        return f"<p>{escape(repr(self))}</p>{notes}{table(rows)}{rest}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an HTML table, escaped. A row whose "recommended" is True is marked."""
    if not rows:
        return "<p>no rows</p>"
    texts = {name for name in rows[0] if any(isinstance(row.get(name), str | tuple) for row in rows)}
    kind = {name: ' class="text"' * (name in texts) for name in rows[0]}
    head = "".join(f"<th{kind[name]}>{escape(name.replace('_', ' '))}</th>" for name in rows[0])
    body = ""
    for row in rows:
        # The style makes the row bold in a notebook as well, which does not have ragcore's style sheet.
        marked = ' class="marked" style="font-weight:bold"' * (row.get("recommended") is True)
        cells = "".join(f"<td{kind[name]}>{escape(_cell(name, row.get(name)))}</td>" for name in rows[0])
        body += f"<tr{marked}>{cells}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _folded(rows: Sequence[Mapping[str, Any]]) -> str:
    drawn = f'<div class="scroll">{table(rows)}</div>'
    return drawn if len(rows) <= FOLDED else f"<details><summary>{len(rows):,} rows</summary>{drawn}</details>"


def _cell(name: str, value: object) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return (MARK if name == "recommended" else "yes") if value else ""
        case float():
            return f"{value + 0.0:.3f}"
        case tuple():
            return ", ".join(map(str, value))
    return str(value)


def _svg(plot: Any) -> str:
    text = io.StringIO()
    plot.figure.savefig(text, format="svg", metadata={"Date": None})
    written = text.getvalue()
    return written[written.index("<svg") :]


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

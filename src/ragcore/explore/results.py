"""What results have in common: frames, plots, files, and how they show themselves."""

from __future__ import annotations

import html
import json
from os import PathLike
from pathlib import Path
from typing import Any, Self

from ragcore.extras import require

__all__ = ["Result"]


class Result:
    """A table of rows that can be shown, plotted, saved and loaded."""

    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows."""
        raise TypeError(f"{type(self).__name__} has no rows")

    def to_frame(self) -> Any:
        """The rows as a pandas frame. Extra `notebook`."""
        return require("pandas", extra="notebook", purpose="to_frame").DataFrame(self.to_dicts())

    def save(self, path: str | PathLike[str], /) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(self._state(), ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str], /) -> Self:
        """What `save` wrote."""
        return cls._restored(json.loads(Path(path).read_text(encoding="utf-8")))

    def _state(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} can't be saved")

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        raise TypeError(f"{cls.__name__} can't be loaded")

    def _repr_html_(self) -> str:
        rows = self.to_dicts()[:50]
        if not rows:
            return "<p>no rows</p>"
        head = "".join(f"<th>{html.escape(str(key))}</th>" for key in rows[0])
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_shown(value))}</td>" for value in row.values()) + "</tr>"
            for row in rows
        )
        return f"<p>{html.escape(repr(self))}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def axes() -> Any:
    """A new pair of matplotlib axes. Extra `notebook`."""
    require("matplotlib", extra="notebook", purpose="plot")
    figure = require("matplotlib.figure", extra="notebook", purpose="plot").Figure(layout="constrained")
    return figure.subplots()

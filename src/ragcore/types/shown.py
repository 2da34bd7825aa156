"""Shows results as text in a terminal and as tables in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import Any

__all__ = ["as_html", "as_table", "as_text"]

# The columns of a terminal, and the length of the longest bar in characters: in a terminal, and on a page of a notebook or a manual.
COLUMNS = 80
BAR = 40
NARROW_BAR = 20
TEXT = 100


def as_text(report: Mapping[str, Any]) -> str:
    """Return a similarity report as text for a terminal of 80 columns.

    Args:
        report: the report's `to_dict()`.
    """
    lines = [report["verdict"], *wrap(_about(report), COLUMNS, subsequent_indent="  ")]
    lines += [f"  {low:6.2f} to {high:5.2f}  {bar} {count:,}" for low, high, bar, count in _bars(report, BAR)]
    rows = _nearest(report)
    if rows:
        lines.append("the nearest passages: score, text score, document, text")
    for *columns, text in rows:
        start = f"  {'  '.join(columns)}  "
        lines.append(start + _shortened(text, max(NARROW_BAR, COLUMNS - len(start))))
    return "\n".join(filter(None, lines))


def as_html(report: Mapping[str, Any]) -> str:
    """Return a similarity report as HTML for a notebook: escaped, without scripts, readable on dark and light backgrounds."""
    head = f"<p><b>{escape(report['verdict'])}</b></p><p>{escape(_about(report))}</p>"
    bars = [(f"{low:.2f} to {high:.2f}", f"{count:,}", bar) for low, high, bar, count in _bars(report, NARROW_BAR)]
    return (
        head
        + as_table(("score", "chunks", ""), bars)
        + as_table(("score", "text score", "document", "passage"), _nearest(report))
    )


def as_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table, escaped; "" if there are no rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _bars(report: Mapping[str, Any], longest: int) -> list[tuple[float, float, str, int]]:
    most = max((count for _, _, count in report["histogram"]), default=0)
    # Add 0.0, so that -0.00 becomes 0.00.
    return [
        (round(low, 2) + 0.0, round(high, 2) + 0.0, "█" * round(longest * count / most), count)
        for low, high, count in report["histogram"]
    ]


def _about(report: Mapping[str, Any]) -> str:
    sample = f", {report['sampled']:,} scored" if report["sampled"] is not None else ""
    quantiles = "  ".join(f"{name} {round(value, 2) + 0.0:.2f}" for name, value in report["quantiles"].items())
    return f"{report['chunks']:,} chunks, {report['not_embedded']:,} not embedded{sample}; {quantiles}".rstrip("; ")


def _nearest(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    return [
        (
            "–" if passage["score"] is None else f"{passage['score']:.3f}",
            "–" if passage["text_score"] is None else f"{passage['text_score']:.4f}",
            str(passage["document_id"]),
            _shortened(" ".join(str(passage["text"]).split()), TEXT),
        )
        for passage in report["retrieval"]["passages"]
    ]


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"

"""Makes the report of a run: one HTML page without other files and without scripts, for screens and for print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ragcore.loadtest.figures import Figures, Table, Value
from ragcore.loadtest.report.plots import draw
from ragcore.loadtest.words import heading, label, number, quantity, worth_showing

__all__ = ["STYLE", "page"]

STYLE = Path(__file__).with_suffix(".css")
# Tables with more rows are collapsed.
ROWS = 30
CARDS = 24


def page(summary: Mapping[str, Any], figures: Figures) -> str:
    """Return the HTML page of a run.

    Args:
        summary: the contents of summary.json.
        figures: the result of the scenario.
    """
    parts = [
        f"<h1>{escape(summary['scenario'])}</h1>",
        f'<p class="when">{escape(summary["time"])} · {escape(_version(summary))}</p>',
        _verdict(figures),
        _cards(figures.values),
        *_charts(figures),
        *map(_table, figures.tables),
        _slow(figures),
        _environment(summary),
    ]
    title = escape(f"{summary['scenario']} {summary['time']}")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{STYLE.read_text()}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n'
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _verdict(figures: Figures) -> str:
    if figures.invalid:
        kind, text = "red", "This run is invalid: don't use its figures."
    elif figures.failed:
        kind, text = "red", "Not all criteria were met."
    else:
        kind, text = "green", "All criteria were met."
    criteria = "".join(
        f'<li class="{"reached" if one.reached else "missed"}"><b>{"met" if one.reached else "not met"}</b>'
        f" {escape(one.text)}</li>"
        for one in figures.criteria
    )
    listed = f'<ul class="criteria">{criteria}</ul>' if criteria else ""
    return f'<div class="verdict {kind}"><p>{text}</p>{_listed(figures.invalid)}{listed}</div>{_listed(figures.notes)}'


def _version(summary: Mapping[str, Any]) -> str:
    if summary["commit"]:
        return f"commit {summary['commit']}"
    return f"ragcore {summary['machine']['packages'].get('ragcore', '')}"


def _listed(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def _cards(values: Mapping[str, Any]) -> str:
    values = worth_showing(values)
    shown = list(values.items())[:CARDS]
    cards = "".join(
        f'<div class="card"><b>{escape(quantity(name, value))}</b><span>{escape(label(name))}</span></div>'
        for name, value in shown
    )
    if len(values) > len(shown):
        rows: list[dict[str, Value]] = [
            {"figure": label(name), "value": quantity(name, value)} for name, value in values.items()
        ]
        return f'<div class="cards">{cards}</div>' + _table(Table("All figures", rows), folded=True)
    return f'<div class="cards">{cards}</div>'


def _charts(figures: Figures) -> list[str]:
    return [
        f'<figure><figcaption>{escape(chart.title)}</figcaption><div class="scroll">{svg}</div></figure>'
        for chart, svg in zip(figures.charts, draw(figures.charts), strict=True)
    ]


def _table(table: Table, *, folded: bool = False) -> str:
    """Draw a table without its empty columns. summary.json has all columns."""
    if not table.rows:
        return ""
    names = [name for name in table.rows[0] if any(row.get(name) not in (0, None, "") for row in table.rows)]
    texts = {name for name in names if any(isinstance(row.get(name), str) for row in table.rows)}
    kind = {name: ' class="text"' if name in texts else "" for name in names}
    head = "".join(f"<th{kind[name]}>{escape(heading(name))}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td{kind[name]}>{escape(number(name, row.get(name)))}</td>' for name in names)}</tr>"
        for row in table.rows
    )
    drawn = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    title = f"<h2>{escape(table.title)}</h2>"
    if folded or len(table.rows) > ROWS:
        return f"{title}<details><summary>{len(table.rows)} rows</summary>{drawn}</details>"
    return title + drawn


def _slow(figures: Figures) -> str:
    """Return the first questions without a right answer; if there are none, the slowest questions."""
    bad = [outcome for outcome in figures.outcomes if not outcome.ok]
    chosen = bad[:10] or sorted(figures.outcomes, key=lambda outcome: -outcome.seconds)[:5]
    rows: Sequence[dict[str, Any]] = [
        {
            "phase": outcome.phase,
            "question": outcome.question[:60],
            "outcome": outcome.kind,
            "waited_s": outcome.seconds,
            "detail": outcome.detail[:160],
        }
        for outcome in chosen
    ]
    title = f"The first of {len(bad)} questions without a right answer" if bad else "The slowest questions"
    return _table(Table(title, rows)) if rows else ""


def _environment(summary: Mapping[str, Any]) -> str:
    machine = dict(summary["machine"])
    packages = machine.pop("packages", {})
    pairs = {
        **machine,
        "packages": ", ".join(f"{name} {number}" for name, number in packages.items()),
        **{
            f"--{name.replace('_', '-')}": value
            for name, value in summary["settings"].items()
            if value not in (None, False, [], ())
        },
    }
    listed = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs.items())
    return f"<h2>Machine and settings</h2><dl>{listed}</dl>"

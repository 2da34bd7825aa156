"""How a similarity report shows itself: as text in a terminal, as a table in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["ShowsSimilarity"]

BAR = 40
TEXT = 100


class ShowsSimilarity:
    """For a report whose `to_dict()` has verdict, chunks, not_embedded, sampled, quantiles, histogram and retrieval."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        raise NotImplementedError

    def __str__(self) -> str:
        report = self.to_dict()
        lines = [report["verdict"], _about(report)]
        most = max((count for _, _, count in report["histogram"]), default=0)
        for low, high, count in report["histogram"]:
            lines.append(f"  {low:6.2f} to {high:5.2f}  {'█' * round(BAR * count / most)} {count:,}")
        lines += [f"  {'  '.join(row)}" for row in _nearest(report)]
        return "\n".join(filter(None, lines))

    def _repr_html_(self) -> str:
        """Escaped, without a script; legible on dark and on light."""
        report = self.to_dict()
        most = max((count for _, _, count in report["histogram"]), default=0)
        bars = [
            (f"{low:.2f} to {high:.2f}", "█" * round(BAR * count / most), f"{count:,}")
            for low, high, count in report["histogram"]
        ]
        head = f"<p><b>{escape(report['verdict'])}</b></p><p>{escape(_about(report))}</p>"
        return (
            head
            + _table(("score", "", "chunks"), bars)
            + _table(("score", "text rank", "document", "passage"), _nearest(report))
        )


def _about(report: Mapping[str, Any]) -> str:
    sample = f", a sample of {report['sampled']:,} scored" if report["sampled"] is not None else ""
    quantiles = "  ".join(f"{name} {value:.2f}" for name, value in report["quantiles"].items())
    return f"{report['chunks']:,} chunks, {report['not_embedded']:,} not embedded{sample}; {quantiles}".rstrip("; ")


def _nearest(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    return [
        (
            "–" if passage["score"] is None else f"{passage['score']:.3f}",
            "–" if passage["text_score"] is None else f"{passage['text_score']:.4f}",
            str(passage["document_id"]),
            " ".join(str(passage["text"]).split())[:TEXT],
        )
        for passage in report["retrieval"]["passages"]
    ]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

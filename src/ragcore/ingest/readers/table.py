"""Comma- and tab-separated values as a Markdown table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ragcore.errors import InvalidInput
from ragcore.ingest.parsed import Parsed
from ragcore.ingest.readers.encoding import decode
from ragcore.ingest.readers.plain import guessed

__all__ = ["as_table", "read_csv"]

DELIMITERS = ",;\t|"
SAMPLE = 16 * 1024
MOST_CELL = 1024 * 1024


def read_csv(data: bytes) -> Parsed:
    """Read separated values; the delimiter is detected."""
    text, encoding = decode(data)
    csv.field_size_limit(MOST_CELL)
    try:
        dialect: type[csv.Dialect] | csv.Dialect = csv.Sniffer().sniff(text[:SAMPLE], delimiters=DELIMITERS)
    except csv.Error:
        dialect = csv.excel_tab if text[:SAMPLE].count("\t") > text[:SAMPLE].count(",") else csv.excel
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), dialect) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InvalidInput(f"it is not a table: {error}") from None
    return Parsed(as_table(rows), warnings=guessed(encoding))


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table; the first row is the header."""
    if not rows:
        return ""
    width = max(map(len, rows))
    lines = [_line([*row, *[""] * (width - len(row))]) for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

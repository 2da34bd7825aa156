"""Reads comma- and tab-separated values as a Markdown table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Literal

from ragcore.errors import InvalidInput
from ragcore.ingest.parsed import Parsed
from ragcore.ingest.readers.encoding import decode
from ragcore.ingest.readers.plain import guessed

__all__ = ["as_table", "read_csv"]

DELIMITERS = ",;\t|"
SAMPLE = 16 * 1024
MOST_CELL = 1024 * 1024
SEPARATOR = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
# A header with more characters than this would fill most of a chunk.
WIDE = 300
LEAST_COLUMNS = 4
MOST_FILLED = 1_000


def read_csv(data: bytes) -> Parsed:
    """Read separated values; the delimiter is detected."""
    text, encoding = decode(data)
    csv.field_size_limit(MOST_CELL)
    named = SEPARATOR.match(text)
    if named:  # the first line is "sep=;", which names the delimiter for Excel
        text = text[named.end() :]
    delimiter = named[1] if named else _delimiter(text[:SAMPLE])
    # In tab-separated files, a quote is often an ordinary character, such as the sign for inch.
    plain = delimiter == "\t" and any(line.count('"') % 2 for line in text[:SAMPLE].splitlines()[:-1])
    quoting: Literal[0, 3] = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, doublequote=True, quoting=quoting)
        rows = [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InvalidInput(f"it is not a table: {error}") from None
    return Parsed(as_table(rows), warnings=guessed(encoding))


def _delimiter(sample: str) -> str:
    """Return the delimiter. The standard library also guesses other properties; they are ignored, because its guess about doubled quotes may be wrong."""
    try:
        return csv.Sniffer().sniff(sample, delimiters=DELIMITERS).delimiter
    except csv.Error:
        return "\t" if sample.count("\t") > sample.count(",") else ","


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table; the first row is the header. If the header is too wide to be repeated, each row becomes a line of "name: value"."""
    if not rows:
        return ""
    header = list(rows[0])
    if len(rows) > 1 and sum(map(len, header)) > WIDE and len(header) >= LEAST_COLUMNS:
        return "\n".join(filter(None, (_named(header, row) for row in rows[1:]))) + "\n"
    # Short rows are filled up to the header's length. One long row does not make the others longer.
    width = min(MOST_FILLED, max(len(header), min(map(len, rows))))
    lines = [_line([*row, *[""] * (width - len(row))]) for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * max(1, len(header), width), *lines[1:]]) + "\n"


def _named(header: Sequence[str], row: Sequence[str]) -> str:
    names = [*header, *[""] * max(0, len(row) - len(header))]
    pairs = [
        f"{' '.join(name.split())}: {' '.join(cell.split())}" if name.strip() else " ".join(cell.split())
        for name, cell in zip(names, row, strict=False)
        if cell.strip()
    ]
    return "; ".join(pairs)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

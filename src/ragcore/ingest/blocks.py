"""Splits a text into its blocks: headings, prose, tables and code.

All readers write Markdown's marks: "#" before a heading or a line of "=" or "-" under it, fences around code, "|" between the cells of a table.

Source: CommonMark 0.31 (4.2, 4.3, 4.5); GitHub Flavored Markdown 0.29 (4.10, tables).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["HEADING", "PAGE_BREAK", "Block", "Span", "blocks", "first_heading"]

PAGE_BREAK = "\f"  # the PDF reader puts this between pages
HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(\S.*)")
UNDERLINE = re.compile(r" {0,3}(=+|-{3,}|~{3,}|\^{3,}|\"{3,})[ \t]*$")
# Characters that underline a heading, highest level first. The last three are used in reStructuredText, whose line must be as long as the title.
UNDERLINES = '=-~^"'
FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
INDENTED = re.compile(r"(?: {4}|\t)")
DELIMITERS = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")
CELL_END = re.compile(r"(?<!\\)\|")
MOST_TITLE = 200
MOST_HEAD = 10_000
# A table without a line of dashes has at least this many lines with the same number of cells.
LEAST_ROWS = 3

Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a text.

    Attributes:
        kind: the kind of block.
        start, end: its position in the text, in characters.
        level: level of a heading, from 1.
        title: text of a heading, without its marks.
        header: position of a table's header rows; None if it has none.
        rows: positions of a table's other rows, or of the lines of code between fences; () for code that is only indented, because that may be prose.
    """

    kind: Literal["heading", "prose", "table", "code"]
    start: int
    end: int
    level: int = 0
    title: str = ""
    header: Span | None = None
    rows: Sequence[Span] = ()


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    start: int

    @property
    def end(self) -> int:
        """The end without trailing white space."""
        return self.start + len(self.text.rstrip())

    @property
    def is_blank(self) -> bool:
        return not self.text.strip()

    @property
    def ends_page(self) -> bool:
        return self.text.endswith(PAGE_BREAK)

    @property
    def cells(self) -> int:
        """The number of cells that the line has as a row of a table; 0 if it is not one."""
        inner = self.text.strip()
        if "|" not in inner:
            return 0
        return len(CELL_END.findall(inner.removeprefix("|").removesuffix("|"))) + 1


def blocks(text: str, /) -> Iterator[Block]:
    """Yield the blocks of a text, without the white space between them. A block never crosses the end of a page."""
    lines = _lines(text)
    # For each kind of fence, the line up to which a search found no closing fence. No other search starts before this line. Otherwise many unclosed fences
    # would take quadratic time.
    unclosed: dict[str, int] = {}
    at = prose = 0
    while at < len(lines):
        found = _block_at(lines, at, prose, unclosed)
        if found is None:
            at += 1
            if lines[at - 1].ends_page:
                yield from _prose(lines, prose, at)
                prose = at
            continue
        block, after = found
        yield from _prose(lines, prose, at)
        yield block
        at = prose = after
    yield from _prose(lines, prose, at)


def first_heading(text: str, /) -> str:
    """Return the heading at the beginning of a text; "" if the text begins with something else."""
    for line in text[:MOST_HEAD].splitlines():
        if line.strip():
            found = HEADING.match(line)
            return found[2].strip(" #")[:MOST_TITLE] if found else ""
    return ""


def _lines(text: str) -> list[_Line]:
    lines, start = [], 0
    for line in text.splitlines(keepends=True):
        lines.append(_Line(line, start))
        start += len(line)
    return lines


def _prose(lines: Sequence[_Line], first: int, after: int) -> Iterator[Block]:
    if first < after:
        last = lines[after - 1]
        yield Block("prose", lines[first].start, last.start + len(last.text))


def _block_at(lines: Sequence[_Line], at: int, prose: int, unclosed: dict[str, int]) -> tuple[Block, int] | None:
    """Return the block that begins at a line, and the number of the line after the block; None if the line is prose."""
    line = lines[at]
    if line.is_blank:
        return None
    fence = FENCE.match(line.text)
    if fence:
        return _fenced(lines, at, fence[1], unclosed)
    marked = HEADING.match(line.text)
    if marked:
        title = re.sub(r"[ \t]+#+[ \t]*$", "", marked[2]).strip()
        return Block("heading", line.start, line.end, level=len(marked[1]), title=title[:MOST_TITLE]), at + 1
    begins = at == prose or lines[at - 1].is_blank
    if begins and INDENTED.match(line.text):
        return _indented(lines, at)
    if line.cells:
        return _table(lines, at)
    if begins and at + 1 < len(lines) and not line.ends_page and len(line.text) <= MOST_TITLE:
        under = UNDERLINE.match(lines[at + 1].text)
        plain = under is not None and under[1][0] in "=-"
        if under and len(under[1]) >= (3 if plain else max(3, len(line.text.strip()))):
            level = UNDERLINES.index(under[1][0]) + 1
            end = lines[at + 1].end
            return Block("heading", line.start, end, level=level, title=line.text.strip()), at + 2
    return None


def _fenced(lines: Sequence[_Line], at: int, fence: str, unclosed: dict[str, int]) -> tuple[Block, int] | None:
    """Return the code between fences. Return None if no later line of the page closes the fence; then the line of the fence is prose."""
    if at < unclosed.get(fence, 0):
        return None
    number = at + 1
    while number < len(lines) and not lines[number - 1].ends_page:
        mark = FENCE.match(lines[number].text)
        if mark and mark[1].startswith(fence) and lines[number].text.strip() == mark[1]:
            inner = [(line.start, line.end) for line in lines[at : number + 1] if not line.is_blank]
            return Block("code", lines[at].start, lines[number].end, rows=inner), number + 1
        number += 1
    unclosed[fence] = number
    return None


def _indented(lines: Sequence[_Line], at: int) -> tuple[Block, int]:
    """Return the indented lines up to a blank line."""
    number = at + 1
    while number < len(lines) and not lines[number - 1].ends_page and INDENTED.match(lines[number].text):
        if lines[number].is_blank:
            break
        number += 1
    return Block("code", lines[at].start, lines[number - 1].end), number


def _table(lines: Sequence[_Line], at: int) -> tuple[Block, int] | None:
    """Return the table that begins at a line; None if there is none. A table has a line of dashes under its header, or equally many cells in each line."""
    has_header = (
        at + 1 < len(lines)
        and not lines[at].ends_page
        and lines[at + 1].cells == lines[at].cells
        and DELIMITERS.match(lines[at + 1].text) is not None
    )
    number = at + 1
    while number < len(lines) and not lines[number - 1].ends_page:
        cells = lines[number].cells
        if not (cells if has_header else cells == lines[at].cells):
            break
        number += 1
    rows = [(line.start, line.end) for line in lines[at:number]]
    end = lines[number - 1].end
    if has_header:
        return Block("table", lines[at].start, end, header=(rows[0][0], rows[1][1]), rows=rows[2:]), number
    if number - at < LEAST_ROWS:
        return None
    header = rows[0] if _names_columns([line.text for line in lines[at:number]]) else None
    return Block("table", lines[at].start, end, header=header, rows=rows[1:] if header else rows), number


def _names_columns(rows: Sequence[str]) -> bool:
    """Return whether the first row names the columns: it has no digits, and most of the other rows have some."""
    figures = [any(char.isdigit() for char in row) for row in rows]
    return not figures[0] and 2 * sum(figures) > len(rows) - 1

"""Reads the lines of a PDF's page, with their positions, from pdfium.

Source: PDF 32000-1:2008, 9.10 (extraction of text content).
"""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

__all__ = ["LINE_HYPHEN", "Line", "cleaned", "lines_of"]

BOLD = 600
# A digit is raised if its size is less than SMALLER times the word's size, and it stands more than RAISED times that size above the word's base line.
SMALLER, RAISED = 0.8, 0.15
# A gap of more than this many letters' width between two words of a line separates two columns of a table.
COLUMN_GAP = 2.2
# pdfium's character for a hyphen at the end of a line. pdfium adds no line break after it.
LINE_HYPHEN = 0x02
CONTROLS = re.compile("[\0-\x01\x03-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")


@dataclass(slots=True)
class Line:
    """A line of a page: its cells, the height of their letters, and their position. Gaps separate the cells.

    Attributes:
        spans: left and right edge of each cell.
    """

    cells: list[str]
    spans: list[tuple[float, float]]
    size: float
    left: float
    right: float
    bottom: float
    top: float
    height: float
    bold: bool

    @property
    def text(self) -> str:
        """The cells, joined with blanks."""
        return " ".join(self.cells)


@dataclass(slots=True)
class _Word:
    """Letters without white space between them, and the box around the first and the last letter."""

    text: str
    first: int
    left: float
    bottom: float
    right: float
    top: float


def lines_of(pdfium: Any, document: Any, number: int) -> list[Line]:
    """Return the lines of a page in pdfium's order.

    Raises:
        pdfium.PdfiumError: the page is broken.
    """
    page = document[number]
    try:
        text = page.get_textpage()
        try:
            height = page.get_height()
            return _merged([_line(pdfium.raw, text, words, height) for words in _words(pdfium.raw, text)])
        finally:
            text.close()
    finally:
        page.close()


def _words(raw: Any, text: Any) -> Iterator[list[_Word]]:
    """Yield the words of each line. pdfium finds lines and blanks from the positions of letters, not from the order in which the file contains them."""
    words: list[_Word] = []
    letters: list[str] = []
    first = 0
    unicode_at = raw.FPDFText_GetUnicode

    raised = False

    def end_word(after: int) -> None:
        nonlocal raised
        raised = False
        # pdfium returns a character beyond U+FFFF as two surrogates.
        found = cleaned("".join(letters).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
        letters.clear()
        if found:
            words.append(_Word(found, first, *_box(text, first, after - 1)))

    count = text.count_chars()
    for index in range(count):
        code = unicode_at(text, index)
        char = chr(code) if code < 0x110000 else "\ufffd"
        if char not in "\r\n" and not char.isspace():
            if not letters:
                first = index
            elif char.isdigit() and letters[-1] != "^" and not raised and _is_raised(raw, text, index, first):
                # A footnote's mark. Without "^" it would look like one more digit of the number before it.
                letters.append("^")
                raised = True
            letters.append(char)
            if code != LINE_HYPHEN:
                continue
        if letters:
            end_word(index + (code == LINE_HYPHEN))
        if (char in "\r\n" or code == LINE_HYPHEN) and words:
            yield words
            words = []
    if letters:
        end_word(count)
    if words:
        yield words


def _is_raised(raw: Any, text: Any, index: int, first: int) -> bool:
    """Return whether a character is smaller and higher than the first one of its word."""
    size = raw.FPDFText_GetFontSize(text, first)
    if not 0 < raw.FPDFText_GetFontSize(text, index) < SMALLER * size:
        return False
    x, high, low = ctypes.c_double(), ctypes.c_double(), ctypes.c_double()
    raw.FPDFText_GetCharOrigin(text, index, ctypes.byref(x), ctypes.byref(high))
    raw.FPDFText_GetCharOrigin(text, first, ctypes.byref(x), ctypes.byref(low))
    return bool(high.value > low.value + RAISED * size)


def _box(text: Any, first: int, last: int) -> tuple[float, float, float, float]:
    left, bottom, right, top = text.get_charbox(first)
    if last > first:
        box = text.get_charbox(last)
        if box[2] > box[0]:  # a character that pdfium has inserted has no box
            left, bottom, right, top = min(left, box[0]), min(bottom, box[1]), max(right, box[2]), max(top, box[3])
    return left, bottom, right, top


def _line(raw: Any, text: Any, words: Sequence[_Word], height: float) -> Line:
    """Join words to cells. A wide gap begins a new cell, in text from left to right and from right to left."""
    cells, spans = [words[0].text], [(words[0].left, words[0].right)]
    letter = max(1.0, sum(word.right - word.left for word in words) / sum(len(word.text) for word in words))
    for one, other in pairwise(words):
        gap = max(other.left - one.right, one.left - other.right)
        if gap > COLUMN_GAP * letter:
            cells.append(other.text)
            spans.append((other.left, other.right))
        else:
            cells[-1] += " " + other.text
            spans[-1] = min(spans[-1][0], other.left), max(spans[-1][1], other.right)
    # The height of the font after scaling; it does not depend on the letters of the words.
    _, low, _, high = text.get_charbox(words[0].first, loose=True)
    tallest = max(word.top - word.bottom for word in words)
    return Line(
        cells,
        spans,
        high - low if high > low else tallest,
        min(word.left for word in words),
        max(word.right for word in words),
        min(word.bottom for word in words),
        max(word.top for word in words),
        height,
        all(_is_bold(raw, text, word.first) for word in (words[0], words[-1])),
    )


def _merged(lines: Sequence[Line]) -> list[Line]:
    """Join lines that are at the same height, one to the right of the other. These are cells of a table that a program has drawn one by one."""
    merged: list[Line] = []
    for line in lines:
        before = merged[-1] if merged else None
        if before is not None and _beside(before, line) and not before.text.endswith(chr(LINE_HYPHEN)):
            letter = (line.right - line.left) / max(1, len(line.text))
            if line.left - before.right > COLUMN_GAP * letter:
                before.cells += line.cells
                before.spans += line.spans
            else:
                before.cells[-1:] = [f"{before.cells[-1]} {line.cells[0]}", *line.cells[1:]]
                before.spans[-1:] = [(before.spans[-1][0], line.spans[0][1]), *line.spans[1:]]
            before.right, before.top = line.right, max(before.top, line.top)
            before.bottom, before.bold = min(before.bottom, line.bottom), before.bold and line.bold
            continue
        merged.append(line)
    return merged


def _beside(one: Line, other: Line) -> bool:
    overlap = min(one.top, other.top) - max(one.bottom, other.bottom)
    return overlap > 0.5 * min(one.top - one.bottom, other.top - other.bottom) and other.left >= one.right - 1


def _is_bold(raw: Any, text: Any, index: int) -> bool:
    if raw.FPDFText_GetFontWeight(text, index) >= BOLD:
        return True
    name = ctypes.create_string_buffer(128)
    raw.FPDFText_GetFontInfo(text, index, name, len(name), None)
    return any(word in name.value.lower() for word in (b"bold", b"black", b"heavy"))


def cleaned(text: str) -> str:
    """Return the text without control characters, and with ligatures split into letters."""
    text = CONTROLS.sub(" ", text).strip(" ")
    return "".join(unicodedata.normalize("NFKC", char) if "\ufb00" <= char <= "\ufb06" else char for char in text)

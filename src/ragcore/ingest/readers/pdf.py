"""PDF files, with pdfium.

Pages are separated by a form feed. Text comes in pdfium's order, as lines with their position and size; from these the reader finds headings, table rows,
repeated headers and footers, and words that were hyphenated at the end of a line. Each page is checked for plausibility.

Source: PDF 32000-1:2008, 9.10 (extraction of text content) and 12.3.3 (document outline).
"""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from ragcore.errors import InvalidInput
from ragcore.extras import require
from ragcore.ingest.blocks import PAGE_BREAK
from ragcore.ingest.parsed import Parsed

__all__ = ["read_pdf"]

PURPOSE = "reading PDF"
MOST_PAGES = 20_000
MOST_TITLE = 300
# A heading is set this much larger than most of the document's letters.
HEADING_RATIO = 1.15
# In bold less will do; but bold alone is emphasis, such as an amount of money.
BOLD_HEADING_RATIO = 1.04
BOLD = 600
MOST_HEADING_CHARACTERS = 160
# Text on at least this share of the pages, at their top or bottom, is a header or a footer.
REPEATED = 0.6
LEAST_PAGES_TO_REPEAT = 4
EDGE_LINES = 2
EDGE = 0.08
MOST_EDGE_CHARACTERS = 160
# A gap of this many letters' width between two words of a line is a column of a table.
COLUMN_GAP = 2.2
HYPHENS = "-\u00ad\u2010"
CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
# Titles that programs write when they know none.
NO_TITLE = re.compile(
    r"\(?(anonymous|untitled|unspecified|no title)\)?|microsoft word - .*|.*\.(docx?|indd|tex|dvi|qxd|pptx?|xlsx?)",
    re.IGNORECASE,
)
GLYPH_NAMES = re.compile(r"(?:/[A-Za-z]{0,3}\d{1,4}|\(cid:\d+\))")


def read_pdf(data: bytes) -> Parsed:
    """Read a PDF.

    Raises:
        InvalidInput: it is encrypted, broken, or has no text.
    """
    pdfium = require("pypdfium2", extra="pdf", purpose=PURPOSE)
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower():
            raise InvalidInput("it is encrypted: save it without a password") from None
        raise InvalidInput(f"it is broken, or not a PDF ({str(error)[:100]})") from None
    try:
        document.init_forms()
        pages = [_lines(pdfium, document, number) for number in range(min(len(document), MOST_PAGES))]
        fields = _form_fields(pdfium, document)
        title = _title(document)
        outline = _outline(document)
        count = len(document)
    finally:
        document.close()
    _drop_repeated(pages)
    body = _body_size(pages)
    words = Counter(word for page in pages for line in page for word in re.findall(r"\w{3,}", line.text.lower()))
    texts = [_text(page, body, words, outline) for page in pages]
    warnings = _doubts(texts)
    if fields:
        texts[-1:] = [texts[-1] + "\n\n## Form fields\n\n" + "\n".join(fields)] if texts else ["\n".join(fields)]
    if not any(text.strip() for text in texts):
        raise InvalidInput(
            f"none of its {count} pages has text: it is images only, so run OCR over it first, or pass a reader of your own that does"
        )
    # A page break marks a file of one page as well, so that its chunks have a page number.
    joined = PAGE_BREAK.join(texts) + (PAGE_BREAK if len(texts) == 1 else "")
    return Parsed(joined, title=title, metadata={"pages": count}, warnings=warnings)


@dataclass(slots=True)
class _Line:
    """A line of a page: cells, which gaps separate, with the height of their letters and where they are."""

    cells: list[str]
    size: float
    left: float
    top: float
    height: float
    bold: bool

    @property
    def text(self) -> str:
        return " ".join(self.cells)


@dataclass(slots=True)
class _Piece:
    text: str
    left: float
    bottom: float
    right: float
    top: float
    size: float
    bold: bool


def _lines(pdfium: Any, document: Any, number: int) -> list[_Line]:
    """Return the lines of a page in pdfium's order."""
    try:
        page = document[number]
    except pdfium.PdfiumError:
        return []
    try:
        text = page.get_textpage()
        try:
            height = page.get_height()
            pieces = list(_pieces(pdfium, text))
        finally:
            text.close()
    finally:
        page.close()
    return list(_in_lines(pieces, height))


def _pieces(pdfium: Any, text: Any) -> Iterator[_Piece]:
    """Yield runs of text with their boxes, as pdfium merges them: one for each stretch of a line."""
    raw = pdfium.raw
    for index in range(text.count_rects()):
        left, bottom, right, top = text.get_rect(index)
        found = _cleaned(text.get_text_bounded(left=left, bottom=bottom, right=right, top=top))
        if found.strip():
            size, bold = top - bottom, False
            index_of_first = raw.FPDFText_GetCharIndexAtPos(text, left + 0.5, (bottom + top) / 2, 3, 3)
            if index_of_first >= 0:
                # The font's own height, whatever letters the run has, and after all scaling.
                _, low, _, high = text.get_charbox(index_of_first, loose=True)
                size = high - low if high > low else size
                bold = raw.FPDFText_GetFontWeight(text, index_of_first) >= BOLD or _is_bold(raw, text, index_of_first)
            yield _Piece(found, left, bottom, right, top, size, bold)


def _in_lines(pieces: Sequence[_Piece], height: float) -> Iterator[_Line]:
    """Join the pieces that stand beside each other; a wide gap starts a new cell."""
    line: list[_Piece] = []
    for piece in pieces:
        if line and not _beside(line[-1], piece):
            yield _line(line, height)
            line = []
        line.append(piece)
    if line:
        yield _line(line, height)


def _beside(one: _Piece, other: _Piece) -> bool:
    overlap = min(one.top, other.top) - max(one.bottom, other.bottom)
    return overlap > 0.5 * min(one.top - one.bottom, other.top - other.bottom) and other.left >= one.left


def _line(pieces: Sequence[_Piece], height: float) -> _Line:
    cells = [pieces[0].text.strip()]
    for one, other in pairwise(pieces):
        letter = max(1.0, (one.right - one.left) / max(1, len(one.text)))
        gap = other.left - one.right
        text = other.text.strip()
        if gap > COLUMN_GAP * letter:
            cells.append(text)
        elif (
            gap > 0.2 * letter
            or one.text[-1:].isspace()
            or other.text[:1].isspace()
            or (cells[-1][-1:].isdigit() and text[:1].isdigit())
        ):
            cells[-1] += " " + text
        else:
            cells[-1] += text
    size = median(piece.size for piece in pieces)
    bold = all(piece.bold for piece in pieces)
    top = max(piece.top for piece in pieces)
    return _Line([cell for cell in cells if cell], size, pieces[0].left, top, height, bold)


def _is_bold(raw: Any, text: Any, index: int) -> bool:
    name = ctypes.create_string_buffer(128)
    raw.FPDFText_GetFontInfo(text, index, name, len(name), None)
    return any(word in name.value.lower() for word in (b"bold", b"black", b"heavy"))


def _cleaned(text: str) -> str:
    """Without control characters; ligatures as letters, other characters as they are."""
    text = CONTROLS.sub(" ", text.replace("\r", " ").replace("\n", " "))
    return "".join(unicodedata.normalize("NFKC", char) if "\ufb00" <= char <= "\ufb06" else char for char in text)


def _drop_repeated(pages: list[list[_Line]]) -> None:
    """Remove headers and footers: the first and last lines that stand on most pages, apart from their numbers."""
    if len(pages) < LEAST_PAGES_TO_REPEAT:
        return
    counts: Counter[str] = Counter()
    for page in pages:
        counts.update({_without_numbers(line.text) for line in _edges(page)})
    repeated = {text for text, count in counts.items() if count >= REPEATED * len(pages)}
    for page in pages:
        at_edge = {id(line) for line in _edges(page)}
        page[:] = [line for line in page if not (id(line) in at_edge and _without_numbers(line.text) in repeated)]


def _edges(page: Sequence[_Line]) -> list[_Line]:
    ordered = sorted(page, key=lambda line: -line.top)
    return [
        line
        for line in (*ordered[:EDGE_LINES], *ordered[-EDGE_LINES:])
        if len(line.text) <= MOST_EDGE_CHARACTERS and not EDGE < line.top / max(1.0, line.height) < 1 - EDGE
    ]


def _without_numbers(text: str) -> str:
    return re.sub(r"\b(?:\d+|[ivxlc]+)\b", "#", " ".join(text.lower().split()))


def _body_size(pages: Sequence[Sequence[_Line]]) -> float:
    """The height in which most letters of the document are set."""
    letters: Counter[float] = Counter()
    for page in pages:
        for line in page:
            letters[round(line.size * 2) / 2] += len(line.text)
    return letters.most_common(1)[0][0] if letters else 0.0


def _text(page: Sequence[_Line], body: float, words: Counter[str], outline: frozenset[str]) -> str:
    """A page's text: headings with Markdown's mark, table rows with their cells, hyphenated words joined."""
    out: list[str] = []
    previous: _Line | None = None
    for line in page:
        text = " | ".join(line.cells) if len(line.cells) > 1 else line.text
        if _is_heading(line, body, outline):
            out.append(f"\n## {line.text}\n")
        elif out and previous is not None and len(line.cells) == 1 and _joins(out[-1], text, words):
            out[-1] = out[-1].rstrip(HYPHENS) + text
        else:
            if previous is not None and previous.top - line.top > 2.2 * max(line.size, previous.size) and out:
                out.append("")
            out.append(text)
        previous = line
    return "\n".join(out)


def _is_heading(line: _Line, body: float, outline: frozenset[str]) -> bool:
    text = line.text
    if (
        not body
        or len(text) > MOST_HEADING_CHARACTERS
        or len(line.cells) > 1
        or not any(char.isalpha() for char in text)
    ):
        return False
    if " ".join(text.lower().split()) in outline and line.size >= body:
        return True
    return line.size > (BOLD_HEADING_RATIO if line.bold else HEADING_RATIO) * body


def _joins(above: str, below: str, words: Counter[str]) -> bool:
    """Whether a line ends with the first half of a word: the whole word occurs elsewhere, and the half does not."""
    if above[-1:] not in HYPHENS or len(above) < 2 or not below[:1].islower():
        return False
    first, second = re.search(r"(\w+)\W$", above), re.match(r"\w+", below)
    if first is None or second is None:
        return False
    whole = (first[1] + second[0]).lower()
    if above[-1] == "\u00ad":
        return True
    hyphenated = f"{first[1]}-{second[0]}".lower()
    return words[whole] > 0 or (words[first[1].lower()] <= 1 and hyphenated not in words and len(first[1]) > 1)


def _form_fields(pdfium: Any, document: Any) -> list[str]:
    """The names and values of filled-in form fields."""
    raw = pdfium.raw
    fields = []
    form = getattr(document, "formenv", None)
    if form is None:
        return []
    for number in range(min(len(document), MOST_PAGES)):
        page = document[number]
        try:
            for index in range(raw.FPDFPage_GetAnnotCount(page)):
                annotation = raw.FPDFPage_GetAnnot(page, index)
                if not annotation:
                    continue
                try:
                    if raw.FPDFAnnot_GetSubtype(annotation) == raw.FPDF_ANNOT_WIDGET:
                        name = _string(raw.FPDFAnnot_GetFormFieldName, form, annotation)
                        value = _string(raw.FPDFAnnot_GetFormFieldValue, form, annotation)
                        if value.strip() and value != "Off":
                            fields.append(f"{name}: {value}" if name else value)
                finally:
                    raw.FPDFPage_CloseAnnot(annotation)
        finally:
            page.close()
    return list(dict.fromkeys(fields))


def _string(function: Any, form: Any, annotation: Any) -> str:
    length = function(form, annotation, None, 0)
    if length <= 2:
        return ""
    buffer = (ctypes.c_ushort * (length // 2))()
    function(form, annotation, buffer, length)
    return _cleaned(bytes(buffer).decode("utf-16-le", "replace").rstrip("\0")).strip()


def _title(document: Any) -> str:
    title = " ".join(_cleaned(str(document.get_metadata_dict().get("Title") or "")).split())[:MOST_TITLE]
    return "" if NO_TITLE.fullmatch(title) or not any(char.isalnum() for char in title) else title


def _outline(document: Any) -> frozenset[str]:
    """The titles of the outline, which are headings where they stand in the text."""
    titles = set()
    try:
        for item in document.get_toc(max_depth=10):
            title = item.get_title() if hasattr(item, "get_title") else item.title
            titles.add(" ".join(str(title).lower().split()))
            if len(titles) > MOST_PAGES:
                break
    except Exception:  # an outline may be broken in a file whose text is fine
        return frozenset()
    return frozenset(titles - {""})


def _doubts(texts: Sequence[str]) -> tuple[str, ...]:
    """What is not plausible, page by page."""
    kinds: dict[str, list[int]] = {}
    for number, text in enumerate(texts, 1):
        kind = _doubt(text)
        if kind:
            kinds.setdefault(kind, []).append(number)
    return tuple(f"{kind} (page {_ranges(pages)})" for kind, pages in kinds.items())


def _doubt(text: str) -> str:
    plain = text.strip()
    if not plain:
        return "no text; the page may be an image"
    if len(GLYPH_NAMES.findall(plain)) * 4 > len(plain) / 4:
        return "names of glyphs instead of letters"
    letters = sum(char.isalpha() for char in plain)
    if plain.count("\ufffd") > 0.05 * len(plain) or (
        len(plain) > 200 and letters < 0.2 * len(plain) and not any(char.isdigit() for char in plain)
    ):
        return "few readable letters"
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    if len(lines) > 20 and sum(len(line) <= 2 for line in lines) > 0.7 * len(lines):
        return "one letter a line"
    latin = re.findall(r"[A-Za-z]{25,}", plain)
    if sum(map(len, latin)) > 0.3 * max(1, letters):
        return "words without spaces between them"
    return ""


def _ranges(pages: Sequence[int]) -> str:
    shown = ", ".join(map(str, pages[:10]))
    return f"{shown} and {len(pages) - 10} more" if len(pages) > 10 else shown

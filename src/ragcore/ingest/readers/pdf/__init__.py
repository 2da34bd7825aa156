"""Reads PDF files, with pdfium.

A form feed separates pages. The text comes in pdfium's order, as lines with their position and size. From these, the reader finds headings, table rows,
repeated headers and footers, and words that were hyphenated at the end of a line. Then it checks whether the text of each page is plausible. If it is not,
pypdf reads the page again.

Source: PDF 32000-1:2008, 9.10 (extraction of text content) and 12.3.3 (document outline).
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from typing import Any

from ragcore.compat.extras import require
from ragcore.errors import InvalidInput
from ragcore.ingest.blocks import PAGE_BREAK, first_heading
from ragcore.ingest.parsed import Parsed
from ragcore.ingest.readers.pdf.annotations import annotations_of
from ragcore.ingest.readers.pdf.doubts import EMPTY, doubt, doubts
from ragcore.ingest.readers.pdf.layout import align_columns, body_size, drop_line_numbers, drop_repeated, text_of
from ragcore.ingest.readers.pdf.page import Line, cleaned, lines_of
from ragcore.ingest.readers.pdf.second import read_again

__all__ = ["read_pdf"]

PURPOSE = "reading PDF"
MOST_PAGES = 20_000
MOST_TITLE = 300
# Titles that programs write by default.
NO_TITLE = re.compile(
    r"\(?(anonymous|untitled|unspecified|no title)\)?|microsoft word - .*|.*\.(docx?|indd|tex|dvi|qxd|pptx?|xlsx?)",
    re.IGNORECASE,
)

WORDS = (re.compile(r"\w{3,}"), re.compile(r"\w+(?:-\w+)+"))

# pdfium is not thread-safe, and files are read on threads if processes are not allowed.
_pdfium_lock = threading.Lock()


def read_pdf(data: bytes) -> Parsed:
    """Read a PDF.

    Raises:
        InvalidInput: it is encrypted, broken, or has no text.
    """
    pdfium = require("pypdfium2", extra="pdf", purpose=PURPOSE)
    with _pdfium_lock:
        return _read(pdfium, data)


def _read(pdfium: Any, data: bytes) -> Parsed:
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower():
            raise InvalidInput("it is encrypted: save it without a password") from None
        return _broken(data, str(error))
    try:
        document.init_forms()
        count = min(len(document), MOST_PAGES)
        pages: list[list[Line]] = []
        typed: list[list[str]] = []
        for number in range(count):
            try:
                pages.append(lines_of(pdfium, document, number))
                typed.append(annotations_of(pdfium, document, number))
            except pdfium.PdfiumError:
                pages += [[]] * (number + 1 - len(pages))
                typed.append([])
        title = _title(document)
        outline = _outline(document)
    finally:
        document.close()
    for page in pages:
        drop_line_numbers(page)
        align_columns(page)
    drop_repeated(pages)
    body = body_size(pages)
    lines = [line.text.lower() for page in pages for line in page]
    words = Counter(word for line in lines for pattern in WORDS for word in pattern.findall(line))
    texts = [text_of(page, body, words, outline) for page in pages]
    doubtful = {
        number: kind
        for number, text in enumerate(texts)
        if (kind := doubt(text)) and not (kind == EMPTY and typed[number])
    }
    for number, text in read_again(data, list(doubtful)).items():
        texts[number] = text
        del doubtful[number]
    for number, fields in enumerate(typed):
        if fields:
            texts[number] = "\n\n".join(filter(None, [texts[number], "\n".join(fields)]))
    if not any(text.strip() for text in texts):
        raise InvalidInput(
            f"none of its {count} pages has text, only images: run OCR on the file first, or pass your own reader with OCR to read(readers=…)"
        )
    return Parsed(
        _joined(texts), title=title or first_heading(texts[0]), metadata={"pages": count}, warnings=doubts(doubtful)
    )


def _broken(data: bytes, reason: str) -> Parsed:
    """Read a file with the second reader, after pdfium has refused it."""
    found = read_again(data, None)
    if not found:
        raise InvalidInput(f"it is broken, or not a PDF ({reason[:100]})")
    texts = [found.get(number, "") for number in range(max(found) + 1)]
    warning = f"it is damaged ({reason[:100]}): its text may be incomplete"
    return Parsed(_joined(texts), metadata={"pages": len(texts)}, warnings=(warning,))


def _joined(texts: list[str]) -> str:
    """Join the pages with page breaks. If there is only one page, end it with a page break, so that its chunks have a page number."""
    return PAGE_BREAK.join(texts) + (PAGE_BREAK if len(texts) == 1 else "")


def _title(document: Any) -> str:
    title = " ".join(cleaned(str(document.get_metadata_dict().get("Title") or "")).split())[:MOST_TITLE]
    return "" if NO_TITLE.fullmatch(title) or not any(char.isalnum() for char in title) else title


def _outline(document: Any) -> frozenset[str]:
    """Return the titles in the outline. A line of the text that equals one of them is a heading."""
    titles = set()
    try:
        for item in document.get_toc(max_depth=10):
            title = item.get_title() if hasattr(item, "get_title") else item.title
            titles.add(" ".join(str(title).lower().split()))
            if len(titles) > MOST_PAGES:
                break
    except Exception:  # the outline may be broken although the text can be read
        return frozenset()
    return frozenset(titles - {""})

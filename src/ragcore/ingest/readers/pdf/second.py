"""The second reader, for files that pdfium refuses and pages whose text is not plausible.

It uses pypdf, an independent implementation in Python, which repairs other kinds of damage and reads other encodings. It is slower, so its time is limited.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence

from ragcore.ingest.readers.pdf.doubts import doubt
from ragcore.ingest.readers.pdf.page import cleaned

__all__ = ["read_again"]

MOST_PAGES = 200
SECONDS = 20.0


def read_again(data: bytes, pages: Sequence[int] | None) -> dict[int, str]:
    """Return the plausible texts of these pages, by page number from 0. None: all pages."""
    if pages is not None and not pages:
        return {}
    try:
        import pypdf
    except ImportError:
        return {}
    until = time.monotonic() + SECONDS
    found: dict[int, str] = {}
    try:
        document = pypdf.PdfReader(io.BytesIO(data))
        for number in (range(len(document.pages)) if pages is None else pages)[:MOST_PAGES]:
            if time.monotonic() > until:
                break
            text = "\n".join(cleaned(line) for line in document.pages[number].extract_text().splitlines())
            if not doubt(text):
                found[number] = text
    except Exception:  # there is no third reader: after any error, keep the texts that were found so far
        return found
    return found

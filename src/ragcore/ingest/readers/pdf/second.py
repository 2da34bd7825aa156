"""A second reader for what pdfium can't read: whole files that it refuses, and pages whose text is not plausible.

pypdf is written independently, in Python. It repairs other kinds of damage and reads other encodings; it is slower, so it gets little time.
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
    """Return the plausible texts of these pages by their number from 0; None: of all pages."""
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
    except Exception:  # it is the second try: whatever goes wrong, what was found so far counts
        return found
    return found

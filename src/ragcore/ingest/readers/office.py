"""Office files, e-mail and books as Markdown, with kreuzberg.

OCR, language models, caches and downloads stay off. The version is pinned below 5, because releases before 4.10.4 had another licence.
"""

from __future__ import annotations

import zipfile
from functools import partial
from io import BytesIO
from typing import Any

from ragcore.errors import InvalidInput
from ragcore.extras import require
from ragcore.ingest.parsed import Parsed, Reader
from ragcore.ingest.readers.encoding import clean

__all__ = ["TYPES", "office_reader"]

PURPOSE = "reading office files"
OPEN_XML = "application/vnd.openxmlformats-officedocument"
TYPES = {
    ".docx": f"{OPEN_XML}.wordprocessingml.document",
    ".pptx": f"{OPEN_XML}.presentationml.presentation",
    ".xlsx": f"{OPEN_XML}.spreadsheetml.sheet",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".rtf": "application/rtf",
    ".epub": "application/epub+zip",
    ".eml": "message/rfc822",
    ".msg": "application/vnd.ms-outlook",
}
ZIPPED = frozenset({".docx", ".pptx", ".xlsx", ".odt", ".epub"})
# A zip that unpacks to more is a bomb; so is one that shrinks more than this.
MOST_UNPACKED = 512 * 1024 * 1024
SECONDS = 110


def office_reader(suffix: str) -> Reader:
    """Return the reader for a suffix of `TYPES`."""
    return partial(_read, suffix)


def _read(suffix: str, data: bytes) -> Parsed:
    kreuzberg = require("kreuzberg", extra="office", purpose=PURPOSE)
    if data.startswith(b"\xd0\xcf\x11\xe0") and suffix in ZIPPED:
        raise InvalidInput(
            "it is encrypted, or has the format of Office before 2007: save it without a password in the current format"
        )
    if suffix in ZIPPED:
        _check_zip(data)
    options = kreuzberg.ExtractionConfig(
        output_format="markdown",
        use_cache=False,
        disable_ocr=True,
        extraction_timeout_secs=SECONDS,
    )
    try:
        result = kreuzberg.extract_bytes_sync(data, TYPES[suffix], options)
    except kreuzberg.KreuzbergError as error:
        raise InvalidInput(f"it is broken ({str(error)[:200]})") from None
    warnings = tuple(str(getattr(one, "message", one))[:300] for one in (result.processing_warnings or ())[:10])
    metadata: dict[str, Any] = dict(result.metadata or {})
    title = (
        metadata.get("title") or metadata.get("subject") or (metadata.get("core_properties") or {}).get("title") or ""
    )
    title = title if isinstance(title, str) else ""
    return Parsed(
        clean(result.content), title=" ".join(title.split())[:300], metadata=_kept(metadata), warnings=warnings
    )


def _kept(metadata: dict[str, Any]) -> dict[str, Any]:
    """Properties of the document that are worth filtering by."""
    kept = {
        name: metadata[name]
        for name in ("sheet_names", "page_count", "created_at", "modified_at")
        if metadata.get(name)
    }
    authors = metadata.get("authors")
    return kept | ({"authors": [str(one) for one in authors]} if isinstance(authors, list) and authors else {})


def _check_zip(data: bytes) -> None:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError) as error:
        raise InvalidInput(f"it is broken ({error})") from None
    if unpacked > MOST_UNPACKED:
        raise InvalidInput(f"it unpacks to {unpacked // 2**20:,} MB, more than {MOST_UNPACKED // 2**20}")

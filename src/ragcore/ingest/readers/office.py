"""Office files, e-mail and books as Markdown, with kreuzberg.

OCR, language models, caches and downloads stay off. The version is pinned below 5, because releases before 4.10.4 had another licence.
"""

from __future__ import annotations

import re
import zipfile
from functools import partial
from io import BytesIO
from typing import Any

from ragcore.errors import InvalidInput
from ragcore.extras import require
from ragcore.ingest.blocks import first_heading
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
# References to signs in XML, and what stands for them while kreuzberg reads: characters of the private use area.
REFERENCE = re.compile(rb"&(amp|lt|gt|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});")
REFERRED = {"amp": "\uf8f1", "lt": "\uf8f2", "gt": "\uf8f3"}
SIGNS = str.maketrans({"\uf8f1": "&", "\uf8f2": "<", "\uf8f3": ">"})
ZIPPED = frozenset({".docx", ".pptx", ".xlsx", ".odt", ".epub"})
# A zip that unpacks to more is a bomb; so is one that shrinks more than this.
MOST_UNPACKED = 512 * 1024 * 1024
LEAST_BOMB = 32 * 1024 * 1024
MOST_SHRUNK = 200
SECONDS = 110
MOST_TITLE = 300
# Without a title among their properties, they are called what their first heading says. In others that is a sheet or a slide.
HEADED = frozenset({".docx", ".odt", ".rtf", ".epub"})
LINK = re.compile(
    r"\\?!?\[([^\[\]\n]{0,1000})\]\([^()\s]{0,2000}(?:\([^()\s]{0,200}\)[^()\s]{0,200})?(?:[ \t]+\"[^\"\n]{0,500}\")?\)"
)
# A sign that Markdown would take for a mark; a bar stays escaped, since it would end a cell.
ESCAPED = re.compile(r"\\([!-/:-@\[-`{}~])")


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
    if suffix == ".docx":
        data = _with_signs(data)
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
    text = _without_targets(clean(result.content)).translate(SIGNS)
    title = " ".join(title.translate(SIGNS).split())[:MOST_TITLE] if isinstance(title, str) else ""
    if not title and suffix in HEADED:
        title = first_heading(text)
    return Parsed(text, title=title, metadata=_kept(metadata), warnings=warnings)


def _without_targets(markdown: str) -> str:
    """Links and images as their text, and signs as they are: addresses and escapes are nothing to search for."""
    text = LINK.sub(lambda found: found[1], markdown)
    return ESCAPED.sub(lambda found: found[1], text)


def _kept(metadata: dict[str, Any]) -> dict[str, Any]:
    """Properties of the document that are worth filtering by."""
    kept = {
        name: metadata[name]
        for name in ("sheet_names", "page_count", "created_at", "modified_at")
        if metadata.get(name)
    }
    authors = metadata.get("authors")
    return kept | ({"authors": [str(one) for one in authors]} if isinstance(authors, list) and authors else {})


def _with_signs(data: bytes) -> bytes:
    """A .docx in whose texts no sign is written as a reference: kreuzberg 4.10 loses "&amp;", "&lt;" and "&gt;", so "<65" would become "65"."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith(".xml"):
                content = REFERENCE.sub(_sign, content)
            target.writestr(entry.filename, content)
    return out.getvalue()


def _sign(found: re.Match[bytes]) -> bytes:
    name = found[1].decode()
    if name in REFERRED:
        return REFERRED[name].encode()
    code = int("0" + name[1:], 16) if name[1:2] in "xX" else int(name[1:])
    char = chr(code) if 0x20 <= code < 0x110000 and not 0xD800 <= code < 0xE000 else " "
    return {"&": REFERRED["amp"], "<": REFERRED["lt"], ">": REFERRED["gt"]}.get(char, char).encode()


def _check_zip(data: bytes) -> None:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError) as error:
        raise InvalidInput(f"it is broken ({error})") from None
    unpacked = sum(entry.file_size for entry in entries)
    if any(entry.file_size > LEAST_BOMB and entry.file_size > MOST_SHRUNK * entry.compress_size for entry in entries):
        raise InvalidInput(f"it unpacks to {unpacked // 2**20:,} MB, which shrink to far less than any document does")
    if unpacked > MOST_UNPACKED:
        raise InvalidInput(f"it unpacks to {unpacked // 2**20:,} MB, more than {MOST_UNPACKED // 2**20}")

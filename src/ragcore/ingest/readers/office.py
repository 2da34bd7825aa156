"""Reads office files and e-books as Markdown, with kreuzberg.

OCR, language models, caches and downloads are off. The version is pinned below 5, because releases before 4.10.4 had another licence.
"""

from __future__ import annotations

import re
import zipfile
from functools import partial
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes

from ragcore.compat.extras import require
from ragcore.errors import InvalidInput
from ragcore.ingest.blocks import first_heading
from ragcore.ingest.parsed import Parsed, Reader
from ragcore.ingest.readers.encoding import clean

__all__ = ["TYPES", "check_encrypted", "check_zip", "office_reader"]

PURPOSE = "reading office files"
OPEN_XML = "application/vnd.openxmlformats-officedocument"
TYPES = {
    ".docx": f"{OPEN_XML}.wordprocessingml.document",
    ".pptx": f"{OPEN_XML}.presentationml.presentation",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".rtf": "application/rtf",
    ".epub": "application/epub+zip",
    ".msg": "application/vnd.ms-outlook",
}
# References to characters in XML. kreuzberg loses &, < and >, so it gets characters of the private use area instead, which are replaced afterwards.
REFERENCE = re.compile(rb"&(amp|lt|gt|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});")
REFERRED = {"amp": "\uf8f1", "lt": "\uf8f2", "gt": "\uf8f3"}
SIGNS = str.maketrans({"\uf8f1": "&", "\uf8f2": "<", "\uf8f3": ">"})
ZIPPED = frozenset({".docx", ".pptx", ".odt", ".epub"})
# Limits against zip bombs: the unpacked size of the archive, and the compression ratio of each entry that unpacks to more than LEAST_BOMB bytes.
MOST_UNPACKED = 512 * 1024 * 1024
LEAST_BOMB = 32 * 1024 * 1024
MOST_SHRUNK = 200
SECONDS = 110
MOST_TITLE = 300
# Elements of a .docx that kreuzberg misreads, and their replacements. A tab element without attributes is a tab within the text.
PLAINER = (
    (re.compile(rb"<w:tab\s*/>"), b'<w:t xml:space="preserve"> </w:t>'),
    (re.compile(rb"<w:noBreakHyphen\s*/>"), b"<w:t>-</w:t>"),
    (re.compile(rb"<w:softHyphen\s*/>"), b""),
    (re.compile(rb"<w:cr\s*/>"), b"<w:br/>"),
    (re.compile(rb"<w:moveFrom\b[^>]*>.*?</w:moveFrom>", re.DOTALL), b""),
    (re.compile(rb"<mc:Fallback>.*?</mc:Fallback>", re.DOTALL), b""),
    # Footnotes and endnotes are numbered separately in the file, so endnotes get numbers that no footnote has.
    (re.compile(rb'(<w:endnote(?:Reference)?\b[^>]*?w:id=")(\d)'), rb"\g<1>7000\2"),
)
SYMBOL = re.compile(rb'<w:sym\b[^>]*?w:font="([^"]*)"[^>]*?w:char="([0-9A-Fa-f]{1,6})"[^>]*/>')
TEXT = re.compile(rb"<w:t(?:\s[^>]*)?>([^<]*)</w:t>")
BOX, BOX_END = b"<w:txbxContent>", b"</w:txbxContent>"
MOST_BOXES = 1_000
# Source: Unicode consortium, mappings of Adobe's Symbol and of Microsoft's Wingdings.
SYMBOLS = {
    0xA3: "≤", 0xB3: "≥", 0xB1: "±", 0xB4: "×", 0xB8: "÷", 0xB9: "≠", 0xBB: "≈", 0xA5: "∞", 0xB7: "•", 0xAE: "→", 0xAC: "←", 0xAB: "↔", 0xB0: "°",
    0xD6: "√", 0xE5: "∑", 0xA0: "€", 0x2D: "−", 0xD2: "®", 0xE2: "®", 0xD3: "©", 0xE3: "©", 0xD4: "™", 0xE4: "™",
    **{0x61 + n: letter for n, letter in enumerate("αβχδεφγηιϕκλμνοπθρστυϖωξψζ")},
    **{0x41 + n: letter for n, letter in enumerate("ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ")},
}  # fmt: skip
WINGDINGS = {
    0xFE: "☑", 0xFD: "☒", 0xFC: "✓", 0xFB: "✗", 0xA8: "☐", 0x6F: "☐", 0x71: "☐", 0xE0: "→", 0xDF: "←", 0xA7: "▪", 0x6E: "■", 0x6C: "●", 0xD8: "➢",
    0x76: "❖", 0xB7: "•", 0x9F: "•", 0x4A: "☺", 0x28: "☎", 0x2A: "✉",
}  # fmt: skip
ADDRESS = re.compile(rb'(\bhref=")([^"&<>]*%[0-9A-Fa-f]{2}[^"&<>]*)(")')
# If a file of these types has no title in its properties, its first heading becomes the title. In other types, the first heading names a sheet or a slide.
HEADED = frozenset({".docx", ".odt", ".rtf", ".epub"})
LINK = re.compile(
    r"\\?!?\[([^\[\]\n]{0,1000})\]\([^()\s]{0,2000}(?:\([^()\s]{0,200}\)[^()\s]{0,200})?(?:[ \t]+\"[^\"\n]{0,500}\")?\)"
)
# An escaped character that Markdown would otherwise read as a mark. A bar stays escaped, because it would end a cell.
ESCAPED = re.compile(r"\\([!-/:-@\[-`{}~])")


def office_reader(suffix: str) -> Reader:
    """Return the reader for a suffix of `TYPES`."""
    return partial(_read, suffix)


def _read(suffix: str, data: bytes) -> Parsed:
    kreuzberg = require("kreuzberg", extra="office", purpose=PURPOSE)
    if suffix in ZIPPED:
        check_encrypted(data)
        check_zip(data)
    if suffix == ".docx":
        data = _prepared_docx(data)
    if suffix == ".epub":
        data = _with_plain_names(data)
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
    """Replace links and images with their text, and remove escapes, because addresses and escapes don't help a search."""
    text = LINK.sub(lambda found: found[1], markdown.replace("&#9;", " ").replace("&#x9;", " "))
    return ESCAPED.sub(lambda found: found[1], text)


def _kept(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the document's properties that are useful in filters."""
    kept = {
        name: metadata[name]
        for name in ("sheet_names", "page_count", "created_at", "modified_at")
        if metadata.get(name)
    }
    authors = metadata.get("authors")
    return kept | ({"authors": [str(one) for one in authors]} if isinstance(authors, list) and authors else {})


def _prepared_docx(data: bytes) -> bytes:
    """Return a .docx that is changed so that kreuzberg 4.10 reads it completely.

    kreuzberg loses "&amp;", "&lt;" and "&gt;", so "<65" becomes "65". It loses tabs, fixed hyphens and symbols, so "2025" and "40" next to each other
    become "202540". It loses the paragraph around a text box, a footnote that has the number of an endnote, headers and footers. If text was moved while
    changes were tracked, it returns the old copy as well.
    """
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        headers_and_footers = _headers_and_footers(source)
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith(".xml"):
                content = REFERENCE.sub(_sign, content)
            if entry.filename.startswith("word/") and entry.filename.endswith(".xml"):
                content = _plainer(content, headers_and_footers if entry.filename == "word/document.xml" else b"")
            target.writestr(entry.filename, content)
    return out.getvalue()


def _plainer(xml: bytes, headers_and_footers: bytes) -> bytes:
    for pattern, replacement in PLAINER:
        xml = pattern.sub(replacement, xml)
    xml = SYMBOL.sub(lambda found: b"<w:t>%s</w:t>" % _symbol(found), xml)
    xml = _without_boxes(xml)
    end = xml.rfind(b"<w:sectPr")
    end = xml.rfind(b"</w:body>") if end < 0 or xml.find(b"</w:p>", end) >= 0 else end
    return xml[:end] + headers_and_footers + xml[end:] if headers_and_footers and end >= 0 else xml


def _without_boxes(xml: bytes) -> bytes:
    """Move each text box behind the paragraph that anchors it. The last box is moved first, so that the next end of a paragraph is always the anchor's."""
    for _ in range(MOST_BOXES):
        start = xml.rfind(BOX)
        end = xml.find(BOX_END, start)
        anchor = xml.find(b"</w:p>", end)
        if start < 0 or end < 0 or anchor < 0:
            return xml
        anchor += len(b"</w:p>")
        inner = xml[start + len(BOX) : end]
        xml = xml[:start] + xml[end + len(BOX_END) : anchor] + inner + xml[anchor:]
    return xml


def _headers_and_footers(archive: zipfile.ZipFile) -> bytes:
    """Return the texts of headers and footers as paragraphs."""
    said: dict[bytes, None] = {}
    for name in sorted(archive.namelist()):
        if re.fullmatch(r"word/(?:header|footer)\d*\.xml", name):
            text = b"".join(TEXT.findall(REFERENCE.sub(_sign, archive.read(name)).replace(b"</w:p>", b"<w:t> </w:t>")))
            text = b" ".join(text.split())
            if any(chr(byte).isalpha() for byte in text) or len(text) > len(text.decode(errors="replace")):
                said[text] = None
    return b"".join(b'<w:p><w:r><w:t xml:space="preserve">%s</w:t></w:r></w:p>' % text for text in said)


def _symbol(found: re.Match[bytes]) -> bytes:
    font, code = found[1].decode("latin-1").lower(), int(found[2], 16)
    low = code - 0xF000 if 0xF000 <= code <= 0xF0FF else code
    table = WINGDINGS if "wingdings" in font else SYMBOLS
    return (table.get(low) or (chr(low) if low > 0xFF else "\ufffd")).encode()


def _with_plain_names(data: bytes) -> bytes:
    """Return an .epub whose manifest uses the file names of the archive: kreuzberg doesn't find "Chapter%202.xhtml", and leaves it out."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith(".opf"):
                content = ADDRESS.sub(lambda found: found[1] + unquote_to_bytes(found[2]) + found[3], content)
            target.writestr(entry.filename, content)
    return out.getvalue()


def _sign(found: re.Match[bytes]) -> bytes:
    name = found[1].decode()
    if name in REFERRED:
        return REFERRED[name].encode()
    code = int("0" + name[1:], 16) if name[1:2] in "xX" else int(name[1:])
    char = chr(code) if 0x20 <= code < 0x110000 and not 0xD800 <= code < 0xE000 else " "
    return {"&": REFERRED["amp"], "<": REFERRED["lt"], ">": REFERRED["gt"]}.get(char, char).encode()


def check_encrypted(data: bytes) -> None:
    """Refuse files that Office has encrypted or that are older than Office 2007: they are not zip archives."""
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise InvalidInput(
            "it is encrypted, or has the format of Office before 2007: save it without a password in the current format"
        )


def check_zip(data: bytes) -> None:
    """Refuse a file that is not a zip archive, and a zip bomb."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError) as error:
        raise InvalidInput(f"it is broken ({error})") from None
    unpacked = sum(entry.file_size for entry in entries)
    if any(entry.file_size > LEAST_BOMB and entry.file_size > MOST_SHRUNK * entry.compress_size for entry in entries):
        raise InvalidInput(
            f"it unpacks to {unpacked // 2**20:,} MB and is compressed far more than any document: it may be a zip bomb"
        )
    if unpacked > MOST_UNPACKED:
        raise InvalidInput(
            f"it unpacks to {unpacked // 2**20:,} MB, more than the limit of {MOST_UNPACKED // 2**20} MB"
        )

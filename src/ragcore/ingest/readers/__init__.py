"""Readers by file type. A reader is imported when the first file needs it."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import PurePath
from typing import cast

from ragcore.ingest.parsed import Reader

__all__ = ["HOMES", "LINES", "SUFFIXES", "is_lines", "reader_of"]

# Maps a suffix to "module:function" in this package.
HOMES: dict[str, str] = {
    ".txt": "plain:read_text",
    ".log": "plain:read_text",
    ".rst": "plain:read_text",
    ".md": "markdown:read_markdown",
    ".markdown": "markdown:read_markdown",
    ".mdx": "markdown:read_markdown",
    ".html": "html:read_html",
    ".htm": "html:read_html",
    ".xhtml": "html:read_html",
    ".pdf": "pdf:read_pdf",
    ".csv": "table:read_csv",
    ".tsv": "table:read_csv",
    ".xlsx": "spreadsheet:read_xlsx",
    ".eml": "mail:read_mail",
    ".json": "data:read_json",
    ".xml": "data:read_xml",
    **dict.fromkeys((".docx", ".pptx", ".msg", ".epub", ".odt", ".rtf"), "office:office_reader"),
}
# Files with one document in each line.
LINES = (".jsonl", ".jsonl.gz")
SUFFIXES = (*HOMES, *LINES)


def is_lines(path: PurePath) -> bool:
    """Return whether each line of the file is a document."""
    return path.name.lower().endswith(LINES)


def reader_of(path: PurePath, *, whole_pages: bool = False) -> Reader | None:
    """Return the reader for a file; None for an unknown type.

    Args:
        whole_pages: whether to read all of an HTML page instead of only its main content.
    """
    home = HOMES.get(path.suffix.lower())
    if home is None:
        return None
    module, _, name = home.partition(":")
    found = getattr(importlib.import_module(f"ragcore.ingest.readers.{module}"), name)
    if module == "office":
        reader: Reader = found(path.suffix.lower())
        return reader
    return partial(found, whole=whole_pages) if module == "html" else cast("Reader", found)

"""Ingestion: lists sources, reads files, cuts texts into chunks, embeds the chunks and stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragcore.ingest.ingestor import Ingestor as Ingestor
    from ragcore.ingest.reading import read as read
    from ragcore.ingest.sources.filesystem import FileSystemSource as FileSystemSource
    from ragcore.ingest.sources.folder import FolderSource as FolderSource
    from ragcore.ingest.sources.http_list import HttpListSource as HttpListSource
    from ragcore.ingest.sources.options import IngestOptions as IngestOptions
    from ragcore.ingest.sources.query import QuerySource as QuerySource
    from ragcore.ingest.sources.source import Entry as Entry
    from ragcore.ingest.sources.source import Source as Source
    from ragcore.ingest.sources.watching import changes as changes
else:
    _HOME = {
        "Entry": "sources.source",
        "FileSystemSource": "sources.filesystem",
        "FolderSource": "sources.folder",
        "HttpListSource": "sources.http_list",
        "IngestOptions": "sources.options",
        "Ingestor": "ingestor",
        "QuerySource": "sources.query",
        "Source": "sources.source",
        "changes": "sources.watching",
        "read": "reading",
    }

    def __getattr__(name: str) -> object:
        import importlib

        if name in _HOME:
            return getattr(importlib.import_module(f"ragcore.ingest.{_HOME[name]}"), name)
        raise AttributeError(f"module 'ragcore.ingest' has no attribute {name!r}")


__all__ = [
    "Entry",
    "FileSystemSource",
    "FolderSource",
    "HttpListSource",
    "IngestOptions",
    "Ingestor",
    "QuerySource",
    "Source",
    "changes",
    "read",
]

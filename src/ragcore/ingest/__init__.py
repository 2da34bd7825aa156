"""Ingestion: reads files, cuts texts into chunks, embeds the chunks and stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragcore.ingest.ingestor import Ingestor as Ingestor
    from ragcore.ingest.reading import read as read
else:
    _HOME = {"Ingestor": "ingestor", "read": "reading"}

    def __getattr__(name: str) -> object:
        import importlib

        if name in _HOME:
            return getattr(importlib.import_module(f"ragcore.ingest.{_HOME[name]}"), name)
        raise AttributeError(f"module 'ragcore.ingest' has no attribute {name!r}")


__all__ = ["Ingestor", "read"]

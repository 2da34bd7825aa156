"""Reads plain text."""

from __future__ import annotations

from ragcore.ingest.parsed import Parsed
from ragcore.ingest.readers.encoding import decode

__all__ = ["guessed", "read_text"]


def read_text(data: bytes) -> Parsed:
    """Read plain text in any common encoding."""
    text, encoding = decode(data)
    return Parsed(text, warnings=guessed(encoding))


def guessed(encoding: str) -> tuple[str, ...]:
    """Return the warning for a guessed encoding."""
    return (f"the encoding was guessed: {encoding}",) if encoding else ()

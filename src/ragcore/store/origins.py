"""The message about a document that another source lists. All stores use it."""

from __future__ import annotations

__all__ = ["foreign"]


def foreign(document_id: str, source: str, /) -> str:
    """Return the message about a document that is recorded for another source."""
    return (
        f"the document {document_id!r} is recorded for the source {source}, so it was not replaced: rename one of the two, "
        "or take it over with take_over=True or --take-over"
    )

"""The seam between a source and whatever reads it: a source lists entries and fetches their contents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from ragcore.types import Document, Unreadable

__all__ = ["Entry", "Source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a source's listing: a file, an object, a page, or a row.

    Attributes:
        id: the entry's name in the source. It is also the id of its document, unless the entry is a file of lines.
        version: a text that changes with the content, such as an ETag; None if the source has none, so that the entry is read at each run.
        document: the document, if the listing itself contains it, as a row of a query does. Then there is nothing to fetch.
        location: where the source finds the content, if the id does not tell it. It may contain a token, so it is not shown.
        has_type: whether the suffix of the id tells the type. False: only the suffix of the fetched file tells it.
    """

    id: str
    version: str | None = None
    document: Document | None = None
    location: str = field(default="", repr=False)
    has_type: bool = True


@runtime_checkable
class Source(Protocol):
    """A place that documents come from. An instance holds settings only, so it can be pickled and sent to another process, unless it holds a `Secret`.

    The methods may be called in different processes: one lists the entries, others fetch them.
    """

    @property
    def name(self) -> str:
        """The name under which the store records the source's documents: always the same for the same place, and without secrets."""

    def entries(self) -> AsyncIterator[Entry | Unreadable]:
        """List the source. The iterator holds a few entries at a time, whatever the size of the source.

        Yields:
            `Entry`, or `Unreadable` for a part that can't be listed, such as a folder without permission. Its `id` is the entry or the folder. What was
            recorded from there counts as present.

        Raises:
            RagcoreError: the listing failed, perhaps half-way. Then nothing may be concluded from an entry that it did not contain.
        """
        ...

    def address(self, entry: Entry, /) -> str:
        """Return what the document shows as its source, such as a path or a URL without secrets."""
        ...

    async def fetch(self, entry: Entry, /, *, into: Path) -> Path:
        """Return the path of a local file with the entry's content; its suffix tells the type.

        Args:
            entry: an entry of this source without a `document`.
            into: a folder for temporary files. A file in it belongs to the caller, who deletes it; a file elsewhere is the user's own.

        Raises:
            InvalidInput: the entry can't be read: it vanished, access is denied, it is too large, or it is in a place that the source may not use.
        """
        ...

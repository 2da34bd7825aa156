"""The interface of a source: it lists entries and fetches their contents."""

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
        version: a text that changes with the content, such as an ETag. None: unknown, so each run reads the entry.
        document: the document, if the listing itself contains it, as a row of a query does. Then there is nothing to fetch.
        location: the address of the content for `fetch`, if it does not follow from the id. It may contain a token, so it is not shown.
        has_type: whether the suffix of the id determines the type. False: the suffix of the fetched file determines it.
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
            `Entry`, or `Unreadable` for a part that can't be listed, such as a folder without permission. Its `id` is the entry or the folder. Documents that
            are recorded for it, or for entries below it, count as present.

        Raises:
            RagcoreError: the listing failed, perhaps after some entries. The run then deletes no document of this source.
        """
        ...

    def address(self, entry: Entry, /) -> str:
        """Return the text that becomes the document's `source`, such as a path, or a URL without secrets."""
        ...

    async def fetch(self, entry: Entry, /, *, into: Path) -> Path:
        """Return the path of a local file with the entry's content. The suffix of the path determines the type.

        Args:
            entry: an entry of this source without a `document`.
            into: a folder for temporary files. A file in it belongs to the caller, who deletes it; a file elsewhere is the user's own.

        Raises:
            InvalidInput: the entry can't be read: it vanished, access is denied, it is too large, or the source may not read from its location.
        """
        ...

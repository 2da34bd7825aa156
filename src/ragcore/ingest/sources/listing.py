"""The listing of one source during a run: which entries it has, and which recorded documents are gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ragcore.errors import DependencyError, RagcoreError
from ragcore.ingest.sources.names import Names
from ragcore.ingest.sources.source import Entry, Source
from ragcore.lifecycle.closing import closing
from ragcore.types import Origin, Unreadable

__all__ = ["Listing"]


@dataclass(slots=True)
class Listing:
    """The state of one source during a run.

    Invariant: `is_complete` only after the source has listed its last entry without an error. Until then, nothing is gone.

    Attributes:
        source: the source.
        is_complete: whether the listing ended without an error.
        missed: entries and folders that could not be listed or read. What is recorded for them, or below them, counts as present.
        lines: entries that are files of lines. Each has many documents.
    """

    source: Source
    is_complete: bool = False
    missed: set[str] = field(default_factory=set)
    lines: set[str] = field(default_factory=set)
    _entries: Names = field(default_factory=Names)
    _documents: Names = field(default_factory=Names)

    @property
    def is_empty(self) -> bool:
        """Whether the source lists nothing at all."""
        return not self._entries and not self.missed

    async def entries(self) -> AsyncGenerator[Entry | Unreadable, None]:
        """Yield the entries of the source, and record them.

        Raises:
            RagcoreError: the listing failed.
        """
        found = self.source.entries()
        try:
            async with closing(found):
                async for entry in found:
                    if isinstance(entry, Entry):
                        self._entries.add(entry.id)
                    else:
                        self.missed.add(entry.id)
                    yield entry
        except RagcoreError:
            raise
        except Exception as error:  # the source may be the user's own
            raise DependencyError(
                f"the listing of {self.source.name} failed ({type(error).__name__})", dependency="source"
            ) from error
        self.is_complete = True

    def has_read(self, origin: Origin, document_id: str) -> None:
        """Record a document that was read from an entry."""
        if origin.entry in self.lines:
            self._documents.add(origin.entry, document_id)

    def is_gone(self, document_id: str, origin: Origin) -> bool:
        """Return whether a document that is recorded for this source is no longer in it."""
        if not self.is_complete or document_id in self.missed:
            return False
        places = (origin.entry, *PurePosixPath(origin.entry).parents) if self.missed else ()
        if any(str(place) in self.missed for place in places):
            return False
        if not self._entries.has(origin.entry):
            return True
        return origin.entry in self.lines and not self._documents.has(origin.entry, document_id)

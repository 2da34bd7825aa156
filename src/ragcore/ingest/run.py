"""One `add`: whose documents it adds, what became of them so far, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from ragcore.protocols import EmbeddedDocument
from ragcore.types import Document, Doubt, IngestReport, Unreadable

__all__ = ["Run"]

MOST_DOUBTS = 10_000


@dataclass(slots=True)
class Run:
    """The state of one `add`.

    Attributes:
        tenant: whose the documents become.
        document_timeout: seconds for each step of a document.
        progress: called with the report so far, whenever it changes.
        seen: the ids of the documents so far.
    """

    tenant: str
    document_timeout: float
    progress: Callable[[IngestReport], None] | None
    began: float = field(default_factory=anyio.current_time)
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    chunks: int = 0
    tokens: int | None = None
    failed: list[Unreadable] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def begin(self, document: Document) -> bool:
        """Count a document in; False if it has the id of another one, and has failed for it."""
        if document.id in self.seen:
            self.fail(
                Unreadable(
                    document.id,
                    "another document of this run has the same id, and came first: give one of them another id, or name their common folder",
                    source=document.source,
                )
            )
            return False
        self.seen.add(document.id)
        if document.warnings and len(self.doubts) < MOST_DOUBTS:
            self.doubts += [Doubt(document.id, message) for message in document.warnings]
        return True

    def done(
        self, written: Sequence[EmbeddedDocument], known: Mapping[str, str], *, unchanged: int, tokens: int
    ) -> None:
        """Count a batch.

        Args:
            written: what went into the store.
            known: the content hashes that the store had, by document id.
            unchanged: how many documents were left alone.
            tokens: of the texts that were embedded.
        """
        updated = sum(embedded.document.id in known for embedded in written)
        self.updated += updated
        self.added += len(written) - updated
        self.unchanged += unchanged
        self.chunks += sum(len(embedded.chunks) for embedded in written)
        if written:
            self.tokens = (self.tokens or 0) + tokens
        self._tell()

    def fail(self, unreadable: Unreadable) -> None:
        """Count a document that did not go in."""
        self.failed.append(unreadable)
        self._tell()

    def report(self) -> IngestReport:
        """Return what became of the documents so far."""
        return IngestReport(
            added=self.added,
            updated=self.updated,
            unchanged=self.unchanged,
            chunks=self.chunks,
            embedding_tokens=self.tokens,
            failed=tuple(self.failed),
            warnings=tuple(self.doubts),
            seconds=anyio.current_time() - self.began,
        )

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(self.report())

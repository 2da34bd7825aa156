"""The state of one `add`: its tenant, its counts so far and its progress callback."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from ragcore.protocols import EmbeddedDocument
from ragcore.resilience import RateLimiter
from ragcore.types import Document, Doubt, IngestReport, Origin, Unreadable

__all__ = ["Run"]

MOST_DOUBTS = 10_000
REPLACES = "an earlier document of this run has the same id; this one has replaced it"


@dataclass(slots=True)
class Run:
    """The state of one `add`.

    Attributes:
        tenant: the owner of the documents.
        document_timeout: seconds for each step of a document.
        progress: called with the report so far, whenever it changes.
        split: whether to cut the documents into chunks.
        dry_run: whether to count only, and to embed and store nothing.
        rate_limiter: limits the requests to the embedder; None: no limit.
        seen: the ids of the documents so far.
        unfinished: number of batches that were handed out and are not finished.
    """

    tenant: str
    document_timeout: float
    progress: Callable[[IngestReport], None] | None
    split: bool = True
    dry_run: bool = False
    rate_limiter: RateLimiter | None = None
    began: float = field(default_factory=anyio.current_time)
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    chunks: int = 0
    tokens: int | None = None
    failed: list[Unreadable] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    unfinished: int = 0
    _taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    _finished: anyio.Event = field(default_factory=anyio.Event)

    def begin(self, document: Document) -> bool:
        """Register a document. Return False if an earlier document of this run has the same id; this one will replace it."""
        first = document.id not in self.seen
        self.seen.add(document.id)
        messages = document.warnings if first else (*document.warnings, REPLACES)
        if messages and len(self.doubts) < MOST_DOUBTS:
            self.doubts += [Doubt(document.id, message) for message in messages]
        return first

    def finish(self) -> None:
        """Count a batch as finished, however it ended."""
        self.unfinished -= 1
        self._finished.set()

    async def all_finished(self) -> None:
        """Wait until all batches that were handed out are finished."""
        while self.unfinished:
            self._finished = anyio.Event()
            await self._finished.wait()

    def done(
        self, written: Sequence[EmbeddedDocument], known: Mapping[str, str], *, unchanged: int, tokens: int
    ) -> None:
        """Add a finished batch to the counts.

        Args:
            written: the documents that were stored.
            known: the content hashes that were stored before, by document id.
            unchanged: number of documents that had not changed.
            tokens: number of tokens of the embedded texts.
        """
        updated = sum(embedded.document.id in known for embedded in written)
        self.updated += updated
        self.added += len(written) - updated
        self.unchanged += unchanged
        self.chunks += sum(len(embedded.chunks) for embedded in written)
        if written:
            self.tokens = (self.tokens or 0) + tokens
        self._report_progress()

    def would_write(
        self, refused: Sequence[Unreadable], documents: Sequence[Document], known: Mapping[str, str], *, unchanged: int
    ) -> None:
        """Add a batch to the counts that a dry run has compared and not stored."""
        self.failed += refused
        updated = sum(document.id in known for document in documents)
        self.updated += updated
        self.added += len(documents) - updated
        self.unchanged += unchanged
        self._report_progress()

    def take_over(self, taken: Iterable[tuple[Origin, Origin]]) -> None:
        """Count the documents that a source has taken over from another one, by their former and their new origins."""
        self._taken.update((former.source, origin.source) for former, origin in taken)

    def fail(self, unreadable: Unreadable) -> None:
        """Record a document that was not stored."""
        self.failed.append(unreadable)
        self._report_progress()

    def report(self) -> IngestReport:
        """Return the report so far."""
        return IngestReport(
            added=self.added,
            updated=self.updated,
            unchanged=self.unchanged,
            chunks=self.chunks,
            embedding_tokens=self.tokens,
            failed=tuple(self.failed),
            warnings=(*self.doubts, *self._taken_over()),
            seconds=anyio.current_time() - self.began,
        )

    def _taken_over(self) -> Iterator[Doubt]:
        for (former, source), count in self._taken.items():
            documents = "1 document" if count == 1 else f"{count:,} documents"
            yield Doubt(source, f"{documents} recorded for the source {former} now belong to {source}")

    def _report_progress(self) -> None:
        if self.progress is not None:
            self.progress(self.report())

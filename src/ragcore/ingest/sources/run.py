"""One run over sources: list, skip, fetch, read, add, and delete documents that are gone."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

import anyio

from ragcore import __version__
from ragcore.compat.ability import offers
from ragcore.errors import InvalidInput, Unsupported
from ragcore.ingest.files import UNKNOWN_TYPE, File, Others, is_readable
from ragcore.ingest.ingestor import Ingestor
from ragcore.ingest.options import Reading
from ragcore.ingest.readers import is_lines
from ragcore.ingest.reading import distinct, nothing_in, read_files
from ragcore.ingest.sources.listing import Listing
from ragcore.ingest.sources.source import Entry, Source
from ragcore.ingest.sources.temporary import clean_up
from ragcore.protocols import OriginStore
from ragcore.resilience import RateLimiter
from ragcore.resilience.threads import Threads
from ragcore.types import Document, IngestReport, Origin, Unreadable

__all__ = ["SourceOptions", "SourceRun"]

ENTRIES_AT_ONCE = 64
FETCHED_AT_ONCE = 8
RECORDS_AT_ONCE = 1_000
DELETED_AT_ONCE = 500
# If more than this share of a source's documents is gone, the source is probably broken, not emptied.
MOST_GONE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """The options of a run.

    Attributes:
        sync: whether to skip entries whose version has not changed, and to delete documents that are gone.
        dry_run: whether to change nothing.
        confirmed: whether to delete documents even if the listing is empty, or more than 20 % of the documents are gone.
        take_over: whether documents of other sources may be replaced.
        expires_at: the time at which documents without an expiry of their own expire.
        rate_limiter: limits the requests to the embedder; None: no limit.
        reading: how to read files.
    """

    sync: bool
    dry_run: bool
    confirmed: bool
    take_over: bool
    expires_at: datetime | None
    rate_limiter: RateLimiter | None
    reading: Reading


class SourceRun:
    """Adds the documents of sources to a store.

    Args:
        ingestor: adds the documents.
        sources: the sources, from `sources_of`.
        tenant: the owner of the documents.
        options: the options.

    Raises:
        Unsupported: `sync` with a store that has no records of sources.
    """

    def __init__(self, ingestor: Ingestor, sources: Sequence[Source], *, tenant: str, options: SourceOptions) -> None:
        if options.sync and not offers(ingestor.store, OriginStore):
            raise Unsupported(
                f"sync needs a store with records of sources, and {type(ingestor.store).__name__} has none",
                stage="write",
            )
        self._ingestor = ingestor
        self._tenant = tenant
        self._options = options
        self._listings = {source.name: Listing(source) for source in sources}
        self._skipped = 0
        self._key = ""
        self._threads = Threads(1, name="temporary files")

    async def add(
        self,
        *,
        progress: Callable[[IngestReport], None] | None,
        document_timeout: float | None,
        delete: Callable[[str, Sequence[str]], Awaitable[int]],
    ) -> IngestReport:
        """Add the documents, and delete those that are gone.

        Args:
            progress: called with the report so far.
            document_timeout: as in `Ingestor.add`.
            delete: function that gets a source and ids of documents, deletes these documents, and returns their number.
        """
        store = self._ingestor.store
        self._key = await self._ingestor.settings_key()
        async with AsyncExitStack() as stack:
            check: Callable[[], Awaitable[None]] | None = None
            before: dict[str, int] = {}
            if self._options.sync:
                assert offers(store, OriginStore)
                if not self._options.dry_run:
                    check = await stack.enter_async_context(
                        store.lock_sources(list(self._listings), tenant=self._tenant)
                    )
                before = {name: await store.count_of(name, tenant=self._tenant) for name in self._listings}
            report = await self._ingestor.add(
                self._documents(),
                tenant=self._tenant,
                progress=None if progress is None else lambda report: progress(self._with_skipped(report)),
                document_timeout=document_timeout,
                dry_run=self._options.dry_run,
                rate_limiter=self._options.rate_limiter,
            )
            report = self._with_skipped(report)
            for name, count in before.items():
                report = await self._without_gone(report, name, count, check, delete)
            return report

    def _with_skipped(self, report: IngestReport) -> IngestReport:
        return replace(report, unchanged=report.unchanged + self._skipped)

    async def _documents(self) -> AsyncIterator[Document | Unreadable]:
        folder = Path(await self._threads.run(lambda: tempfile.mkdtemp(prefix="ragcore-")))
        try:
            async with aclosing(distinct(read_files(self._found(folder), self._options.reading))) as documents:
                async for document in documents:
                    if isinstance(document, Unreadable):
                        self._note_unreadable(document)
                        yield document
                        continue
                    if document.origin is not None:
                        self._listings[document.origin.source].has_read(document.origin, document.id)
                    if self._options.expires_at is not None and document.expires_at is None:
                        document = replace(document, expires_at=self._options.expires_at)
                    yield document
        finally:
            await clean_up(lambda: shutil.rmtree(folder, ignore_errors=True))

    def _note_unreadable(self, unreadable: Unreadable) -> None:
        """Count an entry that can't be read as present. If it is a line of a file, count the file's other documents as present, too."""
        for listing in self._listings.values():
            listing.missed |= {unreadable.id, unreadable.id.rpartition(":")[0]} - {""}

    async def _found(self, folder: Path) -> AsyncGenerator[File | Document | Unreadable, None]:
        """Yield the entries of all sources, without those that have not changed."""
        others = Others()
        found_any = False
        for listing in self._listings.values():
            async with aclosing(_groups(listing)) as groups:
                async for group in groups:
                    async with aclosing(self._contents(listing, group, folder, others)) as contents:
                        async for content in contents:
                            found_any = True
                            yield content
        others.warn()
        if not (found_any or self._skipped or self._options.sync):
            raise InvalidInput(nothing_in(", ".join(self._listings)))

    async def _contents(
        self, listing: Listing, group: Sequence[Entry | Unreadable], folder: Path, others: Others
    ) -> AsyncGenerator[File | Document | Unreadable, None]:
        """Yield the contents of the entries that have changed."""
        entries = await self._changed(listing, [entry for entry in group if isinstance(entry, Entry)])
        left: list[Entry] = []
        for entry in group:
            if isinstance(entry, Unreadable):
                yield entry
            elif entry.document is not None:
                yield replace(entry.document, origin=self._origin(listing, entry))
            elif entry.id in entries and not (entry.has_type and not self._may_read(PurePosixPath(entry.id))):
                left.append(entry)
            elif entry.id in entries:
                for unreadable in self._unknown(entry, listing, others):
                    yield unreadable
        for start in range(0, len(left), FETCHED_AT_ONCE):
            for entry, fetched in await self._fetched(listing, left[start : start + FETCHED_AT_ONCE], folder):
                if isinstance(fetched, Unreadable):
                    yield fetched
                    continue
                is_temporary = fetched.is_relative_to(folder)
                if not self._may_read(fetched):
                    if is_temporary:
                        await self._threads.run(lambda path=fetched: path.unlink(missing_ok=True))  # type: ignore[misc]  # mypy can't infer a default's type
                    for unreadable in self._unknown(entry, listing, others):
                        yield unreadable
                    continue
                file = File(
                    fetched,
                    entry.id,
                    address=listing.source.address(entry),
                    origin=self._origin(listing, entry, lines=is_lines(fetched)),
                    is_temporary=is_temporary,
                )
                if file.is_lines:
                    listing.lines.add(entry.id)
                yield file

    async def _changed(self, listing: Listing, entries: Sequence[Entry]) -> set[str]:
        """Return the entries that must be read. Count the others as unchanged."""
        wanted = {entry.id for entry in entries}
        versions = {entry.id: self._version(entry) for entry in entries if entry.document is None}
        known = {name for name, version in versions.items() if version is not None and _is_storable(name)}
        store = self._ingestor.store
        if not (self._options.sync and known and offers(store, OriginStore)):
            return wanted
        recorded = await store.documents_of_entries(listing.source.name, sorted(known), tenant=self._tenant)
        for document_id, origin in recorded.items():
            # A file of lines has no recorded version, so it is always read.
            if document_id == origin.entry and origin.version == versions[origin.entry] is not None:
                wanted.discard(origin.entry)
                self._skipped += 1
        return wanted

    def _may_read(self, path: PurePosixPath | Path) -> bool:
        return is_readable(Path(path), self._options.reading.known)

    def _unknown(self, entry: Entry, listing: Listing, others: Others) -> list[Unreadable]:
        others.add(Path(entry.id))
        if not self._options.reading.strict:
            return []
        return [Unreadable(entry.id, UNKNOWN_TYPE, source=listing.source.address(entry))]

    async def _fetched(
        self, listing: Listing, entries: Sequence[Entry], folder: Path
    ) -> list[tuple[Entry, Path | Unreadable]]:
        """Fetch entries concurrently. An error or the time limit makes an entry unreadable."""
        found: dict[int, Path | Unreadable] = {}
        seconds = self._options.reading.seconds

        async def one(number: int, entry: Entry) -> None:
            reason = f"it could not be fetched within {seconds:g} s"
            with anyio.move_on_after(seconds):
                try:
                    found[number] = await listing.source.fetch(entry, into=folder)
                    return
                except InvalidInput as error:
                    reason = str(error)
                except Exception as error:  # the source may be the user's own
                    reason = f"it can't be fetched ({type(error).__name__})"
            found[number] = Unreadable(entry.id, reason, source=listing.source.address(entry))

        async with anyio.create_task_group() as group:
            for number, entry in enumerate(entries):
                group.start_soon(one, number, entry)
        return [(entry, found[number]) for number, entry in enumerate(entries)]

    def _origin(self, listing: Listing, entry: Entry, *, lines: bool = False) -> Origin:
        version = None if lines else self._version(entry)
        return Origin(source=listing.source.name, entry=entry.id, version=version, takes_over=self._options.take_over)

    def _version(self, entry: Entry) -> str | None:
        """Return the version to record: it changes with the content, and with everything that decides how the content is read and stored."""
        options = self._options
        if entry.version is None or options.reading.readers:
            return None
        parts = (__version__, self._key, options.reading.whole_pages, options.expires_at, entry.version)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    async def _without_gone(
        self,
        report: IngestReport,
        name: str,
        before: int,
        check: Callable[[], Awaitable[None]] | None,
        delete: Callable[[str, Sequence[str]], Awaitable[int]],
    ) -> IngestReport:
        """Delete the documents of a source that are gone, and add them to the report."""
        listing, store = self._listings[name], self._ingestor.store
        assert offers(store, OriginStore)
        gone: list[str] = []
        after = ""
        while some := await store.documents_of(name, tenant=self._tenant, after=after, limit=RECORDS_AT_ONCE):
            gone += [document_id for document_id, origin in some.items() if listing.is_gone(document_id, origin)]
            after = list(some)[-1]
        kept = self._reason_to_keep(listing, len(gone), before)
        deleted = 0
        if gone and not kept and check is not None:
            for start in range(0, len(gone), DELETED_AT_ONCE):
                await check()
                deleted += await delete(name, gone[start : start + DELETED_AT_ONCE])
        return replace(
            report,
            gone=(*report.gone, *gone),
            deleted=report.deleted + deleted,
            kept="; ".join(filter(None, (report.kept, kept))),
        )

    def _reason_to_keep(self, listing: Listing, gone: int, before: int) -> str:
        if not gone:
            return ""
        name = listing.source.name
        how = "to delete them, pass confirmed=True or --yes"
        if listing.is_empty and not self._options.confirmed:
            return f"{name} lists nothing, so its {gone:,} documents were kept: {how}"
        if gone > MOST_GONE * before and not self._options.confirmed:
            return f"{gone:,} of {before:,} documents are gone from {name}, more than {MOST_GONE * 100:g} %, so they were kept: {how}"
        return "this was a dry run, so nothing was deleted" if self._options.dry_run else ""


async def _groups(listing: Listing) -> AsyncGenerator[list[Entry | Unreadable], None]:
    group: list[Entry | Unreadable] = []
    async with aclosing(listing.entries()) as entries:
        async for entry in entries:
            group.append(entry)
            if len(group) == ENTRIES_AT_ONCE:
                yield group
                group = []
    if group:
        yield group


def _is_storable(name: str) -> bool:
    """Return whether PostgreSQL accepts the name of an entry. A file's name need not be valid UTF-8."""
    try:
        return "\0" not in name and bool(name.encode())
    except UnicodeEncodeError:
        return False

"""The options of an ingest from sources. Each option is documented once, here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TypedDict, Unpack

from ragcore.errors import ConfigurationError
from ragcore.ingest.options import READ_SECONDS, UserReader, reading
from ragcore.ingest.sources.run import SourceOptions
from ragcore.resilience import RateLimiter
from ragcore.types import IngestReport

__all__ = ["IngestOptions", "source_options"]


class IngestOptions(TypedDict, total=False):
    """The options of `RAG.ingest`."""

    sync: bool
    """Whether to delete documents that a source no longer lists, and to skip files whose version has not changed. Default False."""
    dry_run: bool
    """Whether to change nothing. The report counts the documents that a real run would add and update, and names those that are gone. Default False."""
    confirmed: bool
    """Whether `sync` deletes documents even if a source lists nothing, or more than 20 % of its documents are gone. Default False."""
    take_over: bool | None
    """Whether to replace a document that is recorded for another source; it then belongs to this source. False: the document fails. Default None: False with
    `sync`; True without it, and the report has a warning."""
    expires_at: datetime | None
    """Time at which documents without an expiry of their own expire, with a time zone. Default None: never."""
    progress: Callable[[IngestReport], None] | None
    """Function that is called on the event loop with the report so far. Default None."""
    document_timeout: float | None
    """Seconds for each step of a document. Default None: `Settings.document_timeout`."""
    read_timeout: float
    """Seconds for fetching each file, and seconds for reading it. Default 120."""
    processes: int | None
    """Number of worker processes, as in `ingest.read`. Default None: one for each core."""
    readers: Mapping[str, UserReader] | None
    """Functions that read other types of files, as in `ingest.read`. With them, each run reads every file. Default None."""
    strict: bool
    """Whether to report files of unknown types as failed. Default False: they are left out."""
    whole_pages: bool
    """Whether to read all of an HTML page. Default False: only its main content."""
    follow_symlinks: bool
    """Whether to follow symbolic links that lead out of a folder that is given as a path. Default False."""
    rate_limiter: RateLimiter | None
    """Limits the requests and tokens per minute to the embedder, as in `RAG.add`. Default None: no limit."""
    hosts: Iterable[str]
    """Further hosts that a list of URLs may name, if the list is given as a URL. Default: none."""


def source_options(**given: Unpack[IngestOptions]) -> SourceOptions:
    """Check the options, and add the defaults.

    Raises:
        ConfigurationError: an option has an invalid value.
    """
    sync = given.get("sync", False)
    take_over = given.get("take_over")
    expires_at = given.get("expires_at")
    if expires_at is not None and (not isinstance(expires_at, datetime) or expires_at.utcoffset() is None):
        raise ConfigurationError(f"expires_at is {expires_at!r}: it must be a datetime with a time zone")
    return SourceOptions(
        sync=sync,
        dry_run=given.get("dry_run", False),
        confirmed=given.get("confirmed", False),
        take_over=not sync if take_over is None else take_over,
        expires_at=expires_at,
        rate_limiter=given.get("rate_limiter"),
        reading=reading(
            read_timeout=given.get("read_timeout", READ_SECONDS),
            processes=given.get("processes"),
            readers=given.get("readers"),
            strict=given.get("strict", False),
            whole_pages=given.get("whole_pages", False),
        ),
    )

"""Documents, their chunks, and reports about adding and erasing them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from ragcore.errors import InvalidInput
from ragcore.value import Value, mapping

__all__ = [
    "Chunk",
    "Counts",
    "Document",
    "Doubt",
    "EmbedText",
    "Erased",
    "IngestReport",
    "Kind",
    "Origin",
    "Scalar",
    "Unreadable",
    "check_text",
]

Scalar: TypeAlias = str | int | float | bool


# The text that is embedded for a chunk: the chunk's text, the document's title and the chunk's text, or the title, the chunk's headings and its text.
EmbedText: TypeAlias = Literal["text", "title+text", "headings+text"]


Kind: TypeAlias = Literal["query", "document"]


# The id and the tenant are stored in one index row. PostgreSQL limits an index row to 2,704 bytes.
MOST_ID, MOST_TITLE, MOST_SOURCE = 1_000, 2_000, 8_000


NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_text(what: str, text: object) -> str:
    """Return the text if PostgreSQL and every model accept it; otherwise raise `InvalidInput`."""
    if not isinstance(text, str):
        raise InvalidInput(f"{what} must be a str, not {type(text).__name__}")
    if "\0" in text:
        raise InvalidInput(f"{what} holds a NUL character, which PostgreSQL can't store: remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{what} holds a lone surrogate at {error.start}, which is not valid Unicode: remove it"
        ) from None
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin(Value):
    """The source that lists a document, and its entry in that source. A store that has records of sources keeps it with the document.

    Attributes:
        source: the source's name, without secrets, such as "/srv/manuals".
        entry: the entry of the source's listing, such as a path relative to the folder. A file of lines is one entry with many documents.
        version: if a later listing has the same version for the entry, its content is the same; None if that is unknown.
        takes_over: whether the document may replace one that is recorded for another source. False: that is an error of this document.
    """

    source: str
    entry: str
    version: str | None = None
    takes_over: bool = False


@dataclass(frozen=True, slots=True)
class Document(Value):
    """A document to add.

    Attributes:
        id: the document's id, unique for the tenant. A second document with the same id replaces the first.
        text: the whole text. `start` and `end` of passages are offsets in it.
        title: the title. It is returned with each passage and searched with the text.
        source: where the document comes from, for example a path or a URL.
        metadata: JSON with string keys, for filters and for display.
        warnings: doubts of the reader about the text. An ingest reports them and does not store them.
        expires_at: time at which the document expires, with a time zone. From then on no search finds it, and `ragcore expire` removes it. None:
            never.
        origin: the source that lists the document; `ragcore.ingest` sets it. None: the document was added by hand, and no source deletes it.

    Raises:
        InvalidInput: the id is blank, a text contains a NUL character or a lone surrogate, id, title or source is too long, the metadata is not
            JSON, or `expires_at` has no time zone.
    """

    id: str
    text: str
    _: KW_ONLY
    title: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = mapping()
    warnings: tuple[str, ...] = ()
    expires_at: datetime | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if self.expires_at is not None and not _is_moment(self.expires_at):
            raise InvalidInput(
                f"document {self.id!r}: expires_at is {self.expires_at!r}: it must be a datetime with a time zone, such as "
                "datetime(2030, 1, 1, tzinfo=UTC)"
            )
        check_text("a document's id", self.id)
        if not self.id.strip():
            raise InvalidInput("a document's id is blank: give it a name that stays the same")
        for what in ("text", "title", "source"):
            check_text(f"document {self.id!r}: its {what}", getattr(self, what))
        for what, text, most in (
            ("id", self.id, MOST_ID),
            ("title", self.title, MOST_TITLE),
            ("source", self.source, MOST_SOURCE),
        ):
            if len(text.encode()) > most:
                raise InvalidInput(
                    f"document {self.id[:100]!r}: its {what} has {len(text.encode()):,} bytes (limit {most:,}): shorten it"
                )
        try:
            written = json.dumps(dict(self.metadata), allow_nan=False, ensure_ascii=False, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"document {self.id!r}: its metadata is not JSON: {error}") from None
        if NUL_IN_JSON.search(written):
            raise InvalidInput(
                f"document {self.id!r}: its metadata holds a NUL character, which PostgreSQL can't store: remove it"
            )
        check_text(f"document {self.id!r}: its metadata", written)
        if not all(isinstance(key, str) for key in self.metadata):
            raise InvalidInput(f"document {self.id!r}: the keys of its metadata must be strings")


def _is_moment(value: object) -> bool:
    """Return whether the value is a datetime that can be converted to UTC."""
    try:
        return isinstance(value, datetime) and value.utcoffset() is not None and value.astimezone(UTC) is not None
    except OverflowError:  # in UTC, the moment is after the end of the year 9999
        return False


@dataclass(frozen=True, slots=True)
class Unreadable(Value):
    """A document that could not be read or stored, with the reason. A reader yields it instead of the document, and the report lists it."""

    id: str
    reason: str
    _: KW_ONLY
    source: str = ""


@dataclass(frozen=True, slots=True)
class Doubt(Value):
    """A warning about a document that was read: its text may be incomplete or wrong.

    Attributes:
        id: the document's id.
        message: which part of the text is doubtful, and its position.
    """

    id: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Value):
    """A piece of a document. It is embedded and found as a whole.

    `text` is `document.text[start:end]`. If the chunk begins inside a table, the table's header rows come first.
    """

    id: str
    text: str
    start: int
    end: int
    metadata: Mapping[str, Any] = mapping()


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport(Value):
    """The result of an ingest, or its progress so far.

    Attributes:
        added, updated, unchanged: number of documents that were new, replaced, or already stored with the same content.
        chunks: number of chunks written.
        embedding_tokens: number of tokens embedded, as the embedder counts them; None if nothing was embedded.
        failed: documents that could not be read or stored because of their content, each with the reason.
        warnings: doubts of the readers about stored documents, such as a guessed encoding; at most 10,000.
        seconds: seconds since the start.
        gone: ids of documents that were recorded for a source and that its listing no longer contains. Only a run with `sync` looks for them.
        deleted: number of these that were deleted.
        kept: why the others were not deleted; "" if all were.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    chunks: int = 0
    embedding_tokens: int | None = None
    failed: tuple[Unreadable, ...] = ()
    warnings: tuple[Doubt, ...] = ()
    seconds: float = 0.0
    gone: tuple[str, ...] = ()
    deleted: int = 0
    kept: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts(Value):
    """Number of stored documents, of their chunks, and of chunks without an embedding."""

    documents: int
    chunks: int
    not_embedded: int = 0


@dataclass(frozen=True, slots=True)
class Erased(Value):
    """Number of a tenant's items that were erased: documents, chunks, vectors in caches, and finished calls in the list of recent calls."""

    documents: int = 0
    chunks: int = 0
    cached_vectors: int = 0
    remembered_calls: int = 0

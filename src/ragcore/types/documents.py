"""Documents: on their way in, as they are cut, and what became of them."""

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
    "Scalar",
    "Unreadable",
    "check_text",
]

Scalar: TypeAlias = str | int | float | bool


# What is embedded for a chunk: its text alone, or its document's title over it, or the title and its headings.
EmbedText: TypeAlias = Literal["text", "title+text", "headings+text"]


Kind: TypeAlias = Literal["query", "document"]


# An id stands in an index with its tenant, whose rows PostgreSQL bounds to 2,704 bytes.
MOST_ID, MOST_TITLE, MOST_SOURCE = 1_000, 2_000, 8_000


NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_text(what: str, text: object) -> str:
    """Text that PostgreSQL and every model can take, or `InvalidInput`."""
    if not isinstance(text, str):
        raise InvalidInput(f"{what} must be a str, not {type(text).__name__}")
    if "\0" in text:
        raise InvalidInput(f"{what} holds a NUL character, which PostgreSQL can't store: remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what} holds a lone surrogate at {error.start}: it is not valid Unicode") from None
    return text


@dataclass(frozen=True, slots=True)
class Document(Value):
    """A document on its way in.

    Attributes:
        id: the tenant's own name for it; a second document with this id replaces the first.
        text: all of its text; citations point into it by offset.
        title: shown and searched with the text.
        source: where it came from, for example a path or a URL.
        metadata: JSON, for filters and for showing; string keys.
        warnings: doubts of the reader about the text; they are reported by an ingest and not stored.
        expires_at: from then on it is not found, and `ragcore expire` removes it; with a time zone. None: never.

    Raises:
        InvalidInput: a blank id, a NUL character, a lone surrogate, metadata that is not JSON, a time without its zone.
    """

    id: str
    text: str
    _: KW_ONLY
    title: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = mapping()
    warnings: tuple[str, ...] = ()
    expires_at: datetime | None = None

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
                    f"document {self.id[:100]!r}: its {what} has {len(text.encode()):,} bytes, more than {most:,}"
                )
        try:
            written = json.dumps(dict(self.metadata), allow_nan=False, ensure_ascii=False, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"document {self.id!r}: its metadata is not JSON: {error}") from None
        if NUL_IN_JSON.search(written):
            raise InvalidInput(
                f"document {self.id!r}: its metadata holds a NUL character, which PostgreSQL can't store"
            )
        check_text(f"document {self.id!r}: its metadata", written)
        if not all(isinstance(key, str) for key in self.metadata):
            raise InvalidInput(f"document {self.id!r}: the keys of its metadata must be strings")


def _is_moment(value: object) -> bool:
    """Whether it is a time that can be said in UTC."""
    try:
        return isinstance(value, datetime) and value.utcoffset() is not None and value.astimezone(UTC) is not None
    except OverflowError:  # in the last hours of the year 9999
        return False


@dataclass(frozen=True, slots=True)
class Unreadable(Value):
    """A document that could not be read or stored, and why; it travels with the others into the report."""

    id: str
    reason: str
    _: KW_ONLY
    source: str = ""


@dataclass(frozen=True, slots=True)
class Doubt(Value):
    """A warning about a document that was read: its text may not be complete.

    Attributes:
        id: the document's id.
        message: what is doubtful, and where.
    """

    id: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Value):
    """A piece of a document that is embedded and found as one.

    `text` is `document.text[start:end]`. Where that begins within a table, the table's header rows stand before it.
    """

    id: str
    text: str
    start: int
    end: int
    metadata: Mapping[str, Any] = mapping()


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport(Value):
    """What an ingest did, or did so far.

    Attributes:
        added, updated, unchanged: documents that were new, replaced, and already there with the same content.
        chunks: chunks written.
        embedding_tokens: tokens embedded, counted in the embedder's own tokens; None if nothing was embedded.
        failed: documents at fault themselves, each with its reason.
        warnings: doubts of the readers about documents that went in, such as a guessed encoding; at most 10,000.
        seconds: since the start.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    chunks: int = 0
    embedding_tokens: int | None = None
    failed: tuple[Unreadable, ...] = ()
    warnings: tuple[Doubt, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts(Value):
    """How much there is."""

    documents: int
    chunks: int
    not_embedded: int = 0


@dataclass(frozen=True, slots=True)
class Erased(Value):
    """What of a tenant went: documents with their chunks, vectors that were kept, and finished calls that were remembered."""

    documents: int = 0
    chunks: int = 0
    cached_vectors: int = 0
    remembered_calls: int = 0

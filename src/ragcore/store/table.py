"""`Table`: names the parts of an existing table, for `TableStore`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from ragcore.errors import ConfigurationError

__all__ = ["COLUMNS", "Column", "Isolation", "Table", "claim"]

Isolation: TypeAlias = Literal["rls", "where"]
# The fields of `Table` that name a column.
COLUMNS = (
    "id", "text", "embedding", "tenant", "document", "order", "title", "source", "metadata", "words", "content_hash",
)  # fmt: skip
# PostgreSQL truncates longer names, so they could name another object.
MOST_BYTES = 63
SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)*")
# The store itself sets these settings.
OWN_SETTINGS = ("role", "session_authorization", "row_security")


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a mapping names, or a key of a JSON column.

    Attributes:
        name: name of the column.
        key: key of the JSON object in the column; None: the column itself.
        in_parent: whether the column is one of the parent table.
    """

    name: str
    key: str | None = None
    in_parent: bool = False

    @classmethod
    def parse(cls, text: str) -> Column:
        """Read `name`, `parent.name`, `name->>key` or `parent.name->>key`."""
        rest = text.removeprefix("parent.")
        name, arrow, key = rest.partition("->>")
        return cls(name, key if arrow else None, rest != text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Names the parts of an existing table of chunks.

    A column is written as `name`. `parent.name` is a column of the parent table, and `name->>key` is a key of a JSON column. Names are used as they are
    stored: `Owner` and `owner` differ, and no name needs quotes.

    Attributes:
        table: name of the table of chunks.
        schema: schema of the table.
        id: column with the id of a chunk. It must be unique.
        text: column with the text of a chunk.
        embedding: column of type vector or halfvec.
        tenant: column with the tenant: text, varchar, uuid, an integer type, or a JSON key.
        document: column with the id of the document; None: each chunk is a document.
        order: column with the position of a chunk in its document, an integer; None: unknown, so `neighbours` is unsupported.
        title, source, metadata: columns of these fields of a passage; None: they are empty. `metadata` must be json or jsonb.
        parent: name of the table of documents; None: no other table is needed. Chunks without a row in it are not found.
        parent_schema: schema of the parent table; None: the same schema.
        join: the columns that join both tables, as `chunk_column=parent_column`, or one name if they are equal; None: `document`.
        predicate: SQL that each chunk must satisfy, such as `deleted_at is null`, in columns of the table of chunks. It is part of each statement, in
            parentheses, so that partial indexes fit. It is code: never build it from input of users.
        words: column of type tsvector; None: the words of `text` are computed, which is slow without an index on that expression.
        content_hash: column for the hash of a document's content, text or a JSON key; None: a document that is added again is always written again.
        language: text search configuration of PostgreSQL, for questions and, without `words`, for chunks.
        isolation: what isolates the tenants. "rls": row-level security of the table; it is an error if it does not apply to the role. "where": the
            condition on the tenant in each statement, and nothing else.
        exact: whether each search compares all of the tenant's vectors. False: the table must have an index for the vectors.
        role: role to which each call switches with `set local role`, so that its policies apply. Each call then needs three round trips instead of one.
        writable: whether the store may add, replace and delete documents. False: it only reads.
        constants: values of further columns, as texts, for the rows that the store writes. `parent.name` is a column of the parent. Use them to satisfy the
            predicate, and for columns that have no default.
        settings: settings of PostgreSQL that each statement sets for itself: from the name of a setting to a function that gets the tenant and returns the
            value.

    Raises:
        ConfigurationError: a name is invalid, or two fields contradict each other.

    Examples:
        >>> Table(table="document_chunks", id="chunk_id", document="document_id", parent="documents", tenant="parent.user_id", isolation="where").relation
        'public.document_chunks'
    """

    table: str
    schema: str = "public"
    id: str = "id"
    text: str = "text"
    embedding: str = "embedding"
    tenant: str
    document: str | None = None
    order: str | None = None
    title: str | None = None
    source: str | None = None
    metadata: str | None = None
    parent: str | None = None
    parent_schema: str | None = None
    join: str | None = None
    predicate: str | None = None
    words: str | None = None
    content_hash: str | None = None
    language: str = "english"
    isolation: Isolation = "rls"
    exact: bool = False
    role: str | None = None
    writable: bool = False
    constants: Mapping[str, str] = field(default_factory=dict, hash=False)
    settings: Mapping[str, Callable[[str], str]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("table", "schema", "parent", "parent_schema", "role", "language"):
            _check_name(name, getattr(self, name))
        for name, column in self.columns.items():
            _check_name(name, column.name)
            if column.key is not None and (not column.key or "\0" in column.key):
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}: a key must follow ->>")
            if column.in_parent and self.parent is None:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)!r}, but parent is not set: set it to the table of documents"
                )
            if column.in_parent and name in ("id", "text", "embedding", "order", "words"):
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)!r}: it must be a column of the table of chunks"
                )
            if column.key is not None and name in ("embedding", "order", "metadata", "words"):
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}: it must be a column, not a JSON key")
        if self.isolation not in get_args(Isolation):
            raise ConfigurationError(f"isolation is {self.isolation!r}: it must be 'rls' or 'where'")
        if self.parent is not None:
            for column_name in self.keys:
                _check_name("join", column_name)
        if self.predicate is not None and ("\0" in self.predicate or not self.predicate.strip()):
            raise ConfigurationError(
                "predicate is empty: leave it out, or write a condition such as 'deleted_at is null'"
            )
        for name in self.constants:
            column = Column.parse(name)
            _check_name("constants", column.name)
            if column.key is not None or (column.in_parent and self.parent is None):
                raise ConfigurationError(f"constants has {name!r}: name a column, as `name` or `parent.name`")
        if self.writable:
            self._check_writing()
        for name in self.settings:
            if SETTING.fullmatch(name) is None or name.lower() in OWN_SETTINGS:
                raise ConfigurationError(
                    f"settings has {name!r}: it must be the name of a setting such as 'request.jwt.claims'; to switch the role, use role="
                )

    def _check_writing(self) -> None:
        if self.document is None:
            raise ConfigurationError(
                "document is not set: a table that is writable needs the column with the id of the document"
            )
        if self.parent is None:
            return
        own, other = self.keys
        if self.document not in (own, f"parent.{other}"):
            raise ConfigurationError(
                f"document is {self.document!r}: a table that is writable needs the column that joins the parent, {own} or parent.{other}"
            )
        if not Column.parse(self.tenant).in_parent:
            raise ConfigurationError(
                f"tenant is {self.tenant!r}: a table that is writable needs the tenant in the parent if there is one, because the store writes rows of both"
            )

    @property
    def columns(self) -> Mapping[str, Column]:
        """The columns of the mapping by the names of their fields, without those that are None."""
        named = {name: getattr(self, name) for name in COLUMNS}
        return {name: Column.parse(text) for name, text in named.items() if text is not None}

    @property
    def keys(self) -> tuple[str, str]:
        """The columns that join both tables: that of the table of chunks, and that of the parent."""
        own, _, other = (self.join or self.document or "").partition("=")
        return own.strip(), (other or own).strip()

    @property
    def relation(self) -> str:
        """Schema and name of the table of chunks, for messages."""
        return f"{self.schema}.{self.table}"

    @property
    def parent_relation(self) -> str | None:
        """Schema and name of the parent table, for messages."""
        return None if self.parent is None else f"{self.parent_schema or self.schema}.{self.parent}"


def claim(name: str, /, *, role: str = "authenticated") -> Callable[[str], str]:
    """Return a function that makes the value of `request.jwt.claims`, as Supabase's policies read it: the tenant as the claim `name`, and the role.

    Examples:
        >>> claim("sub")("7f9c")
        '{"sub": "7f9c", "role": "authenticated"}'
    """
    return lambda tenant: json.dumps({name: tenant, "role": role})


def _check_name(what: str, name: object) -> None:
    if name is None:
        return
    if not isinstance(name, str) or not name or "\0" in name or len(name.encode("utf-8", "replace")) > MOST_BYTES:
        raise ConfigurationError(f"{what} is {name!r}: it must be a name of PostgreSQL, 1 to {MOST_BYTES} bytes long")

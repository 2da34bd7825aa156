"""The rows of a SQL query: each row is a document."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from ragcore.errors import InvalidInput
from ragcore.ingest.readers.encoding import storable
from ragcore.ingest.sources.source import Entry
from ragcore.ingest.worker import MOST_BYTES
from ragcore.store.postgres.rows import rows_of
from ragcore.types import Document, Unreadable
from ragcore.types.secret import Secret

__all__ = ["QuerySource"]

NAME = re.compile(r"[\w.-]{1,100}")
FIELDS = ("id", "text", "title", "source", "expires_at", "metadata")


class QuerySource:
    """The rows of a query to PostgreSQL. The columns `id` and `text` are required; `title`, `source` and `expires_at` are optional.

    All other columns become metadata. A column `metadata` of type json or jsonb is merged with them. Numbers, texts, booleans and arrays stay as they are;
    dates and times become texts in ISO 8601, and intervals become seconds. A row without id or text is reported as failed.

    A cursor reads 50 rows at a time in a read-only transaction, so memory does not grow with the number of rows.

    Args:
        query: one SELECT statement.
        dsn: DSN of the database. Prefer a role that may only read.
        name: name of the query, such as "articles". It identifies the source, so keep it when you change the statement.

    Raises:
        InvalidInput: the name has other characters than letters, digits, "_", "-" and ".", or the query is blank.

    Examples:
        ```python
        articles = ragcore.ingest.QuerySource(
            "select id, body as text, title, lang from articles", dsn=os.environ["CMS_DSN"], name="articles"
        )
        ```
    """

    def __init__(self, query: str, /, *, dsn: str | Secret, name: str) -> None:
        if not isinstance(query, str) or not query.strip():
            raise InvalidInput("the query is blank: pass one SELECT statement")
        if not NAME.fullmatch(name):
            raise InvalidInput(
                f"the name of a query is {name[:100]!r}: use up to 100 letters, digits, '_', '-' and '.'"
            )
        self.query = query
        self._dsn = dsn if isinstance(dsn, Secret) else Secret(dsn)
        self._name = name

    def __repr__(self) -> str:
        return f"QuerySource({self._name!r})"

    @property
    def name(self) -> str:
        """ "query:" and the given name."""
        return f"query:{self._name}"

    async def entries(self) -> AsyncIterator[Entry | Unreadable]:
        """Read the rows.

        Raises:
            InvalidInput: the query is not one SELECT statement, or has no column `id` or `text`.
            ConfigurationError: the DSN is wrong, or the role lacks a right.
            StoreError: PostgreSQL can't be reached, or failed, perhaps after some rows.
        """
        number = 0
        async with aclosing(rows_of(self._dsn, self.query)) as parts:
            async for columns, rows in parts:
                missing = [f"{name!r}" for name in ("id", "text") if name not in columns]
                if missing:
                    raise InvalidInput(
                        f"the query {self._name} has no column {' and '.join(missing)}: name the columns with AS; it has {', '.join(columns)[:300]}"
                    )
                if len(set(columns)) < len(columns):
                    raise InvalidInput(f"the query {self._name} has two columns of the same name: name each with AS")
                for row in rows:
                    number += 1
                    yield self._entry(number, dict(zip(columns, row, strict=True)))

    def address(self, entry: Entry, /) -> str:
        """Return the name of the query and the id of the row."""
        return f"{self.name}/{entry.id}"

    async def fetch(self, entry: Entry, /, *, into: Path) -> Path:
        """Raise an error: each entry of a query contains its document, so there is nothing to fetch."""
        raise InvalidInput("a row has nothing to fetch")

    def _entry(self, number: int, row: Mapping[str, Any]) -> Entry | Unreadable:
        given = row["id"]
        if given is None or not str(given).strip():
            return Unreadable(f"row {number:,}", "its id is null or blank", source=self.name)
        name = str(given)
        try:
            document = self._document(name, row)
        except InvalidInput as error:
            return Unreadable(name, str(error), source=self.name)
        return Entry(id=name, document=document)

    def _document(self, name: str, row: Mapping[str, Any]) -> Document:
        text = row["text"]
        if not isinstance(text, str):
            raise InvalidInput(
                "its text is null" if text is None else f"its text is of type {type(text).__name__}: cast it to text"
            )
        if len(text) > MOST_BYTES:
            raise InvalidInput(f"its text is larger than {MOST_BYTES // 2**20} MB: split it")
        expires_at = row.get("expires_at")
        if expires_at is not None and not isinstance(expires_at, datetime):
            raise InvalidInput("its expires_at is not of type timestamptz")
        metadata = {
            column: _plain(column, value) for column, value in row.items() if column not in FIELDS and value is not None
        }
        return Document(
            name,
            storable(text),
            title=storable(str(row.get("title") or "")),
            source=str(row.get("source") or f"{self.name}/{name}"),
            metadata={**_object(row.get("metadata")), **metadata},
            expires_at=expires_at,
        )


def _object(given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidInput("its metadata is not an object of type json or jsonb")
    return given


def _plain(column: str, value: Any) -> Any:
    """Return a value of a row as JSON."""
    match value:
        case bool() | int() | float():
            return value
        case str():
            return storable(value)
        case Decimal():
            return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case UUID():
            return str(value)
        case list() | tuple():
            return [_plain(column, one) for one in value]
        case Mapping():
            return {str(key): _plain(column, one) for key, one in value.items()}
        case None:
            return None
    raise InvalidInput(
        f"its column {column!r} is of type {type(value).__name__}, which is not JSON: cast it to text, or leave it out"
    )

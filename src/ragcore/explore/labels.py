"""Questions with the documents that answer them."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from uuid import UUID

from ragcore.errors import InvalidInput
from ragcore.validation import check_tenant

__all__ = ["Labelled", "load"]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question and what answers it.

    Attributes:
        question: as a user asks it.
        relevant: ids of the documents that answer it; a mapping gives grades, higher is better.
        tenant: whose documents.
        tags: to break results down by.
    """

    question: str
    relevant: Collection[str] | Mapping[str, int]
    _: KW_ONLY
    tenant: str
    tags: tuple[str, ...] = ()

    def grades(self) -> dict[str, int]:
        """Grade by document id; 1 where none was given."""
        if isinstance(self.relevant, Mapping):
            return {document: grade for document, grade in self.relevant.items() if grade > 0}
        return dict.fromkeys(self.relevant, 1)


def load(source: object, /, *, tenant: str | UUID | None = None) -> list[Labelled]:
    """Labels from a .jsonl or .csv file, a pandas frame, or mappings: "question", "relevant", and perhaps "tenant" and "tags".

    Args:
        source: in CSV, several relevant ids or tags stand in one field with spaces between.
        tenant: for rows that name none.

    Raises:
        InvalidInput: a row without question, relevant documents or tenant; the row is named.
    """
    return [_labelled(number, row, tenant) for number, row in enumerate(_rows(source), start=1)]


def _rows(source: object) -> Iterable[Mapping[str, Any]]:
    if isinstance(source, str | PathLike):
        path = Path(source)
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            return list(csv.DictReader(text.splitlines()))
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise InvalidInput(f"{path} is not JSON lines: {error}") from None
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        rows: list[Mapping[str, Any]] = source.to_dict("records")
        return rows
    if isinstance(source, Iterable):
        return list(source)
    raise InvalidInput(f"labels can't be read from {type(source).__name__}: pass a path, a frame, or mappings")


def _labelled(number: int, row: object, tenant: str | UUID | None) -> Labelled:
    if isinstance(row, Labelled):
        return row
    if not isinstance(row, Mapping) or not str(row.get("question") or "").strip() or not row.get("relevant"):
        raise InvalidInput(f"row {number} of the labels must have a question and relevant documents")
    owner = row.get("tenant") or tenant
    if owner is None:
        raise InvalidInput(f"row {number} of the labels names no tenant: pass tenant=")
    relevant = row["relevant"].split() if isinstance(row["relevant"], str) else row["relevant"]
    tags = row.get("tags") or ()
    return Labelled(
        str(row["question"]),
        relevant if isinstance(relevant, Mapping) else tuple(map(str, relevant)),
        tenant=check_tenant(owner),
        tags=tuple(tags.split()) if isinstance(tags, str) else tuple(tags),
    )

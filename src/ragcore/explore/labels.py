"""Labelled questions: questions with the documents that answer them."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable
from uuid import UUID

from ragcore.errors import InvalidInput
from ragcore.types.validation import check_tenant

__all__ = ["Labelled", "load"]

QRELS = (".qrels", ".tsv", ".txt")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question with the documents that answer it.

    Attributes:
        question: the question as a user asks it.
        relevant: ids of the documents that answer it, or a mapping from ids to grades; a higher grade is better.
        tenant: owner of the documents.
        tags: groups of questions. Results are also shown for each group.
    """

    question: str
    relevant: Collection[str] | Mapping[str, int]
    _: KW_ONLY
    tenant: str
    tags: tuple[str, ...] = ()

    def grades(self) -> dict[str, int]:
        """Return the grade of each relevant document by its id; 1 without grades."""
        if isinstance(self.relevant, Mapping):
            return {document: grade for document, grade in self.relevant.items() if grade > 0}
        return dict.fromkeys(self.relevant, 1)


def load(
    source: object,
    /,
    *,
    tenant: str | UUID | None = None,
    questions: Mapping[str, str] | str | PathLike[str] | None = None,
) -> list[Labelled]:
    """Load labels from a .jsonl or .csv file, TREC qrels, a pandas frame, or mappings.

    Each row has "question" and "relevant", and optionally "tenant" and "tags".

    Args:
        source: in CSV, separate several relevant ids or tags in a field by spaces. A file of qrels has the suffix .qrels, .tsv or .txt. Each of its
            lines has a question id, an optional 0, a document id and a grade, separated by tabs or spaces. Documents with grade 0 are not relevant.
        tenant: tenant of rows without their own.
        questions: texts of the questions of qrels, by id: a mapping, or a .jsonl or .jsonl.gz with "id" (or "_id") and "text" (or "question").

    Raises:
        InvalidInput: a row has no question, no relevant documents or no tenant. The message names the row.
    """
    if isinstance(source, str | PathLike) and Path(source).suffix in QRELS:
        return _from_qrels(Path(source), tenant, questions)
    return [_labelled(number, row, tenant) for number, row in enumerate(_rows(source), start=1)]


@runtime_checkable
class _Frame(Protocol):
    """A pandas DataFrame. As a protocol, it does not import pandas."""

    @property
    def columns(self) -> object: ...

    def to_dict(self, orient: Literal["records"], /) -> list[Mapping[str, Any]]: ...


def _rows(source: object) -> Iterable[Mapping[str, Any]]:
    if isinstance(source, str | PathLike):
        path = Path(source)
        if path.suffix == ".csv":
            return list(csv.DictReader(_text(path).splitlines()))
        return _json_lines(path)
    if isinstance(source, _Frame):
        return source.to_dict("records")
    if isinstance(source, Iterable):
        return list(source)
    raise InvalidInput(f"cannot read labels from {type(source).__name__}: pass a path, a frame or mappings")


def _from_qrels(
    path: Path, tenant: str | UUID | None, questions: Mapping[str, str] | str | PathLike[str] | None
) -> list[Labelled]:
    """Read TREC qrels. Source: README of trec_eval."""
    if questions is None:
        raise InvalidInput(
            f"{path} contains only ids of questions: pass questions=, a mapping or a .jsonl with their texts"
        )
    if tenant is None:
        raise InvalidInput(f"{path} contains no tenant: pass tenant=")
    texts = questions if isinstance(questions, Mapping) else _texts(Path(questions))
    grades: dict[str, dict[str, int]] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        try:
            question, document, grade = fields[0], fields[-2], int(fields[-1])
        except (IndexError, ValueError):
            raise InvalidInput(f"{path}, line {number}: write question id, document id and grade") from None
        if question not in texts:
            raise InvalidInput(f"{path}, line {number}: questions= has no text for {question!r}")
        grades.setdefault(question, {})[document] = grade
    owner = check_tenant(tenant)
    return [Labelled(texts[question], graded, tenant=owner) for question, graded in grades.items()]


def _texts(path: Path) -> dict[str, str]:
    rows = _json_lines(path)
    try:
        return {
            str(row.get("id", row.get("_id"))): str(row["text"] if "text" in row else row["question"]) for row in rows
        }
    except (KeyError, AttributeError):
        raise InvalidInput(f'{path}: each line must be like {{"id": "…", "text": "…"}}') from None


def _json_lines(path: Path) -> list[Any]:
    text = _text(path)
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON lines: {error}") from None


def _text(path: Path) -> str:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as file:
                return file.read()
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot read labels: {error}") from None


def _labelled(number: int, row: object, tenant: str | UUID | None) -> Labelled:
    if isinstance(row, Labelled):
        return row
    if not isinstance(row, Mapping) or not str(row.get("question") or "").strip() or not row.get("relevant"):
        raise InvalidInput(f"row {number} of the labels must have a question and relevant documents")
    owner = row.get("tenant") or tenant
    if owner is None:
        raise InvalidInput(f"row {number} of the labels has no tenant: pass tenant=")
    relevant = row["relevant"].split() if isinstance(row["relevant"], str) else row["relevant"]
    tags = row.get("tags") or ()
    return Labelled(
        str(row["question"]),
        relevant if isinstance(relevant, Mapping) else tuple(map(str, relevant)),
        tenant=check_tenant(owner),
        tags=tuple(tags.split()) if isinstance(tags, str) else tuple(tags),
    )

"""Questions with the documents that answer them."""

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


def load(
    source: object,
    /,
    *,
    tenant: str | UUID | None = None,
    questions: Mapping[str, str] | str | PathLike[str] | None = None,
) -> list[Labelled]:
    """Labels from a .jsonl or .csv file, TREC qrels, a pandas frame, or mappings: "question", "relevant", and perhaps "tenant" and "tags".

    Args:
        source: in CSV, several relevant ids or tags stand in one field with spaces between. Qrels are .qrels, .tsv or .txt: question id, (0,) document
            id, grade, with tabs or spaces between; what has grade 0 is not relevant.
        tenant: for rows that name none.
        questions: of qrels, by id: a mapping, or a .jsonl or .jsonl.gz with "id" (or "_id") and "text" (or "question").

    Raises:
        InvalidInput: a row without question, relevant documents or tenant; the row is named.
    """
    if isinstance(source, str | PathLike) and Path(source).suffix in QRELS:
        return _from_qrels(Path(source), tenant, questions)
    return [_labelled(number, row, tenant) for number, row in enumerate(_rows(source), start=1)]


@runtime_checkable
class _Frame(Protocol):
    """A pandas DataFrame, which is not imported for it."""

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
    raise InvalidInput(f"labels can't be read from {type(source).__name__}: pass a path, a frame, or mappings")


def _from_qrels(
    path: Path, tenant: str | UUID | None, questions: Mapping[str, str] | str | PathLike[str] | None
) -> list[Labelled]:
    """Source: TREC's qrels format, trec_eval's README."""
    if questions is None:
        raise InvalidInput(
            f"{path} holds ids of questions alone: pass questions=, a mapping or a .jsonl with their texts"
        )
    if tenant is None:
        raise InvalidInput(f"{path} names no tenant: pass tenant=")
    texts = questions if isinstance(questions, Mapping) else _texts(Path(questions))
    grades: dict[str, dict[str, int]] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        try:
            question, document, grade = fields[0], fields[-2], int(fields[-1])
        except (IndexError, ValueError):
            raise InvalidInput(f"{path}, line {number}: not question id, document id and grade") from None
        if question not in texts:
            raise InvalidInput(f"{path}, line {number}: there is no text of the question {question!r}")
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
        raise InvalidInput(f"labels can't be read: {error}") from None


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

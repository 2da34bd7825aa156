"""Labelled questions: questions with the documents that answer them."""

from __future__ import annotations

import csv
import gzip
import io
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
        source: in CSV, separate several relevant ids or tags in a field by "|", or by spaces if no id contains a space. A file of qrels has the
            suffix .qrels, .tsv or .txt. Each of its lines has a question id, an optional 0, a document id and a grade, separated by tabs or spaces.
            Documents with grade 0 are not relevant.
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
    """A pandas DataFrame. It is a Protocol, so that pandas need not be imported."""

    @property
    def columns(self) -> object: ...

    def to_dict(self, orient: Literal["records"], /) -> list[Mapping[str, Any]]: ...


def _rows(source: object) -> Iterable[Mapping[str, Any]]:
    if isinstance(source, str | PathLike):
        path = Path(source)
        return _csv_rows(path) if path.suffix == ".csv" else _json_lines(path)
    if isinstance(source, _Frame):
        return source.to_dict("records")
    if isinstance(source, Iterable):
        return list(source)
    raise InvalidInput(f"cannot read labels from {type(source).__name__}: pass a path, a frame or mappings")


def _csv_rows(path: Path) -> list[Mapping[str, Any]]:
    text = _text(path)
    head = text.partition("\n")[0]
    # Spreadsheet programs of many countries write semicolons, because the comma is their decimal sign.
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    names = [str(name).strip() for name in rows.fieldnames or ()]
    missing = {"question", "relevant"} - set(names)
    if missing:
        raise InvalidInput(
            f"{path} has the columns {', '.join(names) or '(none)'}: it also needs {' and '.join(sorted(missing))}"
        )
    return [{str(name).strip(): value for name, value in row.items()} for row in rows]


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
    rows = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise InvalidInput(f"{path}, line {number}: not JSON ({reason})") from None
    return rows


def _text(path: Path) -> str:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig") as file:
                return file.read()
        return path.read_text(encoding="utf-8-sig")  # spreadsheet programs begin a file with a byte order mark
    except OSError as error:
        raise InvalidInput(f"cannot read labels: {error}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not encoded in UTF-8: save it as UTF-8") from None


def _labelled(number: int, row: object, tenant: str | UUID | None) -> Labelled:
    if isinstance(row, Labelled):
        return row
    if not isinstance(row, Mapping) or not str(row.get("question") or "").strip() or not row.get("relevant"):
        raise InvalidInput(f"row {number} of the labels must have a question and relevant documents")
    owner = row.get("tenant") or tenant
    if owner is None:
        raise InvalidInput(f"row {number} of the labels has no tenant: pass tenant=")
    relevant = _names(row["relevant"]) if isinstance(row["relevant"], str) else row["relevant"]
    tags = row.get("tags") or ()
    return Labelled(
        str(row["question"]),
        relevant if isinstance(relevant, Mapping) else tuple(map(str, relevant)),
        tenant=check_tenant(owner),
        tags=tuple(_names(tags)) if isinstance(tags, str) else tuple(tags),
    )


def _names(field: str) -> list[str]:
    """Split a field of ids or tags: at "|" if it has one, else at spaces."""
    return [name for part in field.split("|") if (name := part.strip())] if "|" in field else field.split()

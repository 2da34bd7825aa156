"""Labelled questions: questions with the documents that answer them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable
from uuid import UUID

import numpy as np

from ragcore.errors import InvalidInput
from ragcore.types.validation import check_tenant

__all__ = ["Labelled", "as_written", "load", "rows_of", "save"]

QRELS = (".qrels", ".tsv", ".txt")
COLUMNS = ("question", "relevant", "tenant", "tags", "answer", "unanswerable")
YES, NO = ("1", "true", "yes", "x"), ("", "0", "false", "no")
# A spreadsheet program runs a cell that begins with one of these as a formula (OWASP, "CSV Injection").
FORMULA = re.compile(r"'*[=+\-@\t\r]")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question with the documents that answer it.

    Attributes:
        question: the question as a user asks it.
        relevant: ids of the documents that answer it, or a mapping from ids to grades; a higher grade is better.
        tenant: owner of the documents.
        tags: groups of questions. Results are also shown for each group.
        answer: the right answer, as short as possible: "$1,500". `answers` looks for it in the answers. None: unknown.
        unanswerable: whether the documents don't answer the question, so that "not found" is the right answer. Such a question has no relevant
            documents.
    """

    question: str
    relevant: Collection[str] | Mapping[str, int]
    _: KW_ONLY
    tenant: str
    tags: tuple[str, ...] = ()
    answer: str | None = None
    unanswerable: bool = False

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
    """Load labels from a .jsonl or .csv file, TREC qrels, a frame of pandas or polars, a table of pyarrow, or mappings.

    Each row has "question" and "relevant", and optionally "tenant", "tags", "answer" and "unanswerable". A row with an "answer" or "unanswerable" needs
    no "relevant".

    A table that `to_label` wrote has a row for each document instead, with "question", "document_id" and "relevant": a grade, "x" for 1, or 0. A
    question without any entry in "relevant" is left out, because no one has labelled it. A question whose entries are all 0 is unanswerable.

    Args:
        source: in CSV, separate several relevant ids or tags in a field by "|", or by spaces if no id contains a space. A file of qrels has the
            suffix .qrels, .tsv or .txt. Each of its lines has a question id, an optional 0, a document id and a grade, separated by tabs or spaces.
            Documents with grade 0 are not relevant.
        tenant: tenant of the rows that name no tenant.
        questions: texts of the questions of qrels, by id: a mapping, or a .jsonl or .jsonl.gz with "id" (or "_id") and "text" (or "question").

    Raises:
        InvalidInput: a row has no question, no relevant documents or no tenant, or contradicts itself. The message names the row.
    """
    if isinstance(source, str | PathLike) and Path(source).suffix in QRELS:
        return _from_qrels(Path(source), tenant, questions)
    rows = rows_of(source)
    if any(isinstance(row, Mapping) and "document_id" in row for row in rows):
        return _from_pool(rows, tenant)
    return [_labelled(number, row, tenant) for number, row in enumerate(rows, start=1)]


def save(labelled: Iterable[Labelled], path: str | PathLike[str], /) -> None:
    """Write labels to a .jsonl or .csv file, which `load` reads.

    In CSV, ids are separated by "|". A cell that a spreadsheet program would run as a formula begins with an apostrophe, which `load` removes.

    Raises:
        InvalidInput: the file has another suffix, or CSV can't hold the labels: it has no grades, and no ids or tags that contain "|".
    """
    target, labels = Path(path), list(labelled)
    if target.suffix not in (".jsonl", ".csv"):
        raise InvalidInput(f"cannot write labels to {target}: choose a name that ends with .jsonl or .csv")
    text = _json_text(labels) if target.suffix == ".jsonl" else _csv_text(labels, target)
    target.write_text(text, encoding="utf-8", newline="")


def as_written(cell: object) -> str:
    """Return the text of a cell of a CSV file. A text that a spreadsheet program would run as a formula gets an apostrophe in front."""
    text = "" if cell is None else str(cell)
    return f"'{text}" if FORMULA.match(text) else text


def _as_read(cell: object) -> object:
    """Undo `as_written`."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and FORMULA.match(cell) else cell


def _json_text(labels: Iterable[Labelled]) -> str:
    lines = []
    for label in labels:
        relevant = dict(label.relevant) if isinstance(label.relevant, Mapping) else list(label.relevant)
        row: dict[str, Any] = {"question": label.question, "relevant": relevant, "tenant": label.tenant}
        row |= {"tags": list(label.tags)} if label.tags else {}
        row |= {} if label.answer is None else {"answer": label.answer}
        row |= {"unanswerable": True} if label.unanswerable else {}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


def _csv_text(labels: Iterable[Labelled], path: Path) -> str:
    written = io.StringIO(newline="")
    rows = csv.writer(written)
    rows.writerow(COLUMNS)
    for label in labels:
        if set(label.grades().values()) - {1}:
            raise InvalidInput(f"{path} can't hold the grades of {label.question[:80]!r}: write a .jsonl file")
        fields = []
        for names in (label.grades(), label.tags):
            if any("|" in name for name in names):
                raise InvalidInput(f"{path} can't hold names with a bar, as {label.question[:80]!r} has: write .jsonl")
            # Without a bar, `load` would split a single name at its spaces.
            fields.append("|".join(names) + ("|" if any(" " in name for name in names) and len(names) == 1 else ""))
        texts = (label.question, fields[0], label.tenant, fields[1], label.answer, int(label.unanswerable))
        rows.writerow(map(as_written, texts))
    return written.getvalue()


@runtime_checkable
class _Pandas(Protocol):
    """A DataFrame of pandas. These are Protocols, so that no package need be imported."""

    @property
    def columns(self) -> object: ...

    def to_dict(self, orient: Literal["records"], /) -> list[Mapping[str, Any]]: ...


@runtime_checkable
class _Polars(Protocol):
    """A DataFrame of polars."""

    def to_dicts(self) -> list[Mapping[str, Any]]: ...


@runtime_checkable
class _Arrow(Protocol):
    """A table of pyarrow."""

    def to_pylist(self) -> list[Mapping[str, Any]]: ...


def rows_of(source: object) -> list[Any]:
    """Return the rows of a .jsonl or .csv file, a frame, a table or mappings. Missing values of frames become None.

    Raises:
        InvalidInput: the source is none of these, or the file can't be read.
    """
    if isinstance(source, str | PathLike):
        path = Path(source)
        return _csv_rows(path) if path.suffix == ".csv" else _json_lines(path)
    if isinstance(source, _Polars):
        return source.to_dicts()
    if isinstance(source, _Arrow):
        return source.to_pylist()
    if isinstance(source, _Pandas):
        return [{name: _known(value) for name, value in row.items()} for row in source.to_dict("records")]
    if isinstance(source, Iterable):
        return list(source)
    raise InvalidInput(f"cannot read labels from {type(source).__name__}: pass a path, a frame or mappings")


def _known(value: object) -> object:
    """Return a value of pandas: a missing one as None, an array as a list."""
    if type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.tolist() if isinstance(value, np.ndarray) else value


def _csv_rows(path: Path) -> list[Mapping[str, Any]]:
    text = _text(path)
    head = text.partition("\n")[0]
    # Spreadsheet programs of many countries write semicolons, because the comma is their decimal sign.
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    names = [str(name).strip() for name in rows.fieldnames or ()]
    missing = {"question", "relevant"} - set(names)
    if missing and not {"question", "answer"} <= set(names) and not {"question", "unanswerable"} <= set(names):
        raise InvalidInput(
            f"{path} has the columns {', '.join(names) or '(none)'}: it also needs {' and '.join(sorted(missing))}"
        )
    return [{str(name).strip(): _as_read(value) for name, value in row.items()} for row in rows]


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
    if not isinstance(row, Mapping) or not str(row.get("question") or "").strip():
        raise InvalidInput(f"row {number} of the labels must have a question and relevant documents")
    relevant = row.get("relevant") or ()
    relevant = _names(relevant) if isinstance(relevant, str) else relevant
    if isinstance(relevant, Mapping):  # a frame has each key in each row, with an empty value where it does not belong
        relevant = {str(name): grade for name, grade in relevant.items() if grade is not None}
    answer = str(row.get("answer") or "").strip() or None
    unanswerable = _yes(row.get("unanswerable"), f"row {number} of the labels: unanswerable")
    if not relevant and answer is None and not unanswerable:
        raise InvalidInput(f"row {number} of the labels must have a question and relevant documents, or an answer")
    if unanswerable and (relevant or answer):
        raise InvalidInput(
            f"row {number} of the labels is unanswerable, so it can't have relevant documents or an answer"
        )
    tags = row.get("tags") or ()
    return Labelled(
        str(row["question"]),
        relevant if isinstance(relevant, Mapping) else tuple(map(str, relevant)),
        tenant=_owner(row, tenant, number),
        tags=tuple(_names(tags)) if isinstance(tags, str) else tuple(tags),
        answer=answer,
        unanswerable=unanswerable,
    )


def _owner(row: Mapping[str, Any], tenant: str | UUID | None, number: int) -> str:
    owner = row.get("tenant") or tenant
    if owner is None:
        raise InvalidInput(f"row {number} of the labels has no tenant: pass tenant=")
    return check_tenant(owner)


def _yes(value: object, what: str) -> bool:
    if value is None or (isinstance(value, int | float) and value in (0, 1)):  # a frame with missing values has 1.0
        return bool(value)
    word = str(value).strip().lower()
    if word not in (*YES, *NO):
        raise InvalidInput(f"{what} is {value!r}: write 1 or 0")
    return word in YES


def _from_pool(rows: Sequence[Any], tenant: str | UUID | None) -> list[Labelled]:
    """Read a table with a row for each document of each question, as `to_label` writes it."""
    grades: dict[tuple[str, str], dict[str, int]] = {}
    answers: dict[tuple[str, str], str] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping) or not row.get("question") or not row.get("document_id"):
            raise InvalidInput(f"row {number} of the labels must have a question and a document_id")
        key = (_owner(row, tenant, number), str(row["question"]))
        graded = grades.setdefault(key, {})
        if str(row.get("answer") or "").strip():
            answers[key] = str(row["answer"]).strip()
        grade = _grade(row.get("relevant"), number)
        if grade is not None:
            document = str(row["document_id"])
            graded[document] = max(grade, graded.get(document, 0))
    found = []
    for (owner, question), graded in grades.items():
        answer = answers.get((owner, question))
        if graded:
            some = {document: grade for document, grade in graded.items() if grade > 0}
            relevant = some if set(some.values()) - {1} else tuple(some)
            found.append(
                Labelled(question, relevant, tenant=owner, answer=answer, unanswerable=not some and answer is None)
            )
    return found


def _grade(value: object, number: int) -> int | None:
    """Return the grade of a row; None if the row has not been labelled."""
    word = "" if value is None else str(value).strip().lower()
    if not word:
        return None
    try:
        return {"x": 1, "yes": 1, "true": 1, "no": 0, "false": 0}[word] if word.isalpha() else int(float(word))
    except (KeyError, ValueError, OverflowError):
        raise InvalidInput(
            f"row {number} of the labels: relevant is {value!r}: write a grade such as 1, or 0"
        ) from None


def _names(field: str) -> list[str]:
    """Split a field of ids or tags: at "|" if it has one, else at spaces."""
    return [name for part in field.split("|") if (name := part.strip())] if "|" in field else field.split()

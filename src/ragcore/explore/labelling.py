"""Prepares labelling: chooses different questions, and pools the documents that several searches find for them.

Sources: T. F. Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38, 1985 (the next question is the one
farthest from those already chosen); K. Sparck Jones, C. J. van Rijsbergen, "Report on the need for and provision of an ideal information retrieval test
collection", 1975 (pooling).
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import Any, Self, get_args
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ragcore.client.rag import RAG
from ragcore.errors import InvalidInput
from ragcore.explore.fetching import embedded, in_turn
from ragcore.explore.labels import Labelled, as_written, load
from ragcore.explore.results import Result
from ragcore.retrieval.options import SearchOptions
from ragcore.retrieval.retriever import Retriever
from ragcore.text.words import content_words
from ragcore.types import Mode, Passage
from ragcore.types.validation import check_question, check_tenant, check_top_k

__all__ = ["Pool", "Pooled", "to_label"]

MOST_QUESTIONS = 20_000
# Dimension of the vectors of words. They are used if there is no embedder.
WORDS = 256


@dataclass(frozen=True, slots=True)
class Pooled:
    """A document that some search found for a question, to be labelled.

    Attributes:
        question, tenant: the question and the owner of the documents.
        document_id, title: the document.
        text: its best passage.
        found_by: the searches that found it, with its rank.
    """

    question: str
    tenant: str
    document_id: str
    title: str
    text: str
    found_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pool(Result):
    """Questions with the documents that several searches found, to be labelled by a person.

    A notebook shows it as a table. `to_csv` writes it for a spreadsheet program: enter 1 or a higher grade in the column "relevant" for each document
    that answers its question, and 0 for the others. Then read it with `explore.load`, or pass the labelled rows or frame to `labels`.

    The documents of a question have a random order, because the first one of a ranking is too easily taken for the best one.
    """

    rows: tuple[Pooled, ...]

    @property
    def questions(self) -> tuple[str, ...]:
        """The chosen questions."""
        return tuple(dict.fromkeys(row.question for row in self.rows))

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each document of each question, with the empty columns "relevant" and "answer"."""
        return [
            {
                "question": row.question,
                "relevant": "",
                "text": row.text,
                "title": row.title,
                "document_id": row.document_id,
                "answer": "",
                "tenant": row.tenant,
                "found_by": "; ".join(row.found_by),
            }
            for row in self.rows
        ]

    def to_csv(self, path: str | PathLike[str], /) -> None:
        """Write the table to a CSV file in UTF-8 with a byte order mark, which spreadsheet programs need to recognise it. No cell is run as a formula."""
        written = io.StringIO(newline="")
        rows = csv.writer(written)
        table = self.to_dicts()
        rows.writerow(table[0] if table else ())
        rows.writerows([map(as_written, row.values()) for row in table])
        Path(path).write_text(written.getvalue(), encoding="utf-8-sig", newline="")

    def labels(self, relevant: object, /) -> list[Labelled]:
        """Return the labels of a labelled copy of this table.

        Args:
            relevant: the table as a .csv file, a frame or mappings, with entries in "relevant". Or a mapping from each question to the numbers of its
                relevant rows, as the notebook shows them, such as {"How much is an MRI?": [1, 3]}. An empty list means that no document answers the question.
        """
        if isinstance(relevant, dict):
            return self._by_number(relevant)
        return load(relevant)

    def _by_number(self, chosen: dict[str, Sequence[int]]) -> list[Labelled]:
        found = []
        for question, numbers in chosen.items():
            rows = [row for row in self.rows if row.question == question]
            if not rows:
                raise InvalidInput(f"the pool has no question {question!r}")
            if any(not 1 <= number <= len(rows) for number in numbers):
                raise InvalidInput(f"{question!r} has the rows 1 to {len(rows)}, not {list(numbers)}")
            documents = tuple(rows[number - 1].document_id for number in numbers)
            found.append(Labelled(question, documents, tenant=rows[0].tenant, unanswerable=not documents))
        return found

    def _repr_html_(self) -> str:
        parts = [f"<p>{escape(repr(self))}</p>"]
        for question, rows in groupby(self.rows, key=lambda row: row.question):
            body = "".join(
                f'<tr><td>{number}</td><td style="text-align:left">{escape(row.document_id)}</td>'
                f'<td style="text-align:left">{escape(row.text)}</td></tr>'
                for number, row in enumerate(rows, start=1)
            )
            head = '<th>row</th><th style="text-align:left">document</th><th style="text-align:left">passage</th>'
            parts.append(
                f"<p><b>{escape(question)}</b></p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            )
        return "".join(parts)

    def __repr__(self) -> str:
        return f"Pool({len(self.questions):,} questions, {len(self.rows):,} documents to label)"

    def _state(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows]}

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        return cls(tuple(Pooled(**{**row, "found_by": tuple(row["found_by"])}) for row in state["rows"]))


async def to_label(
    source: RAG | Retriever,
    questions: Iterable[str],
    /,
    *,
    tenant: str | UUID,
    count: int = 20,
    top_k: int = 10,
    pool: Sequence[SearchOptions] | None = None,
    progress: bool = False,
) -> Pool:
    """Choose questions that differ as much as possible, and collect the documents that several searches find for them.

    Labels from a single search favour this search, because a document that it does not find never gets a label. So the results of several searches are
    pooled.

    Args:
        source: a client or its retriever.
        questions: the questions to choose from, such as those of a log. Equal ones count once.
        tenant: the owner of the documents.
        count: number of questions to choose.
        top_k: number of passages of each search.
        pool: the options of each search. None: each mode that the retriever can use, without a threshold.
        progress: show a progress bar. Extra `notebook`.

    Raises:
        InvalidInput: there are no questions or more than 20,000, or count is below 1, or an option is invalid.
    """
    retriever = source.retriever if isinstance(source, RAG) else source
    owner, depth = check_tenant(tenant), check_top_k(top_k)
    asked = list(dict.fromkeys(check_question(question) for question in questions))
    if not asked or count < 1:
        raise InvalidInput("there is nothing to label: pass questions, and a count of at least 1")
    if len(asked) > MOST_QUESTIONS:
        raise InvalidInput(
            f"there are {len(asked):,} questions, and at most {MOST_QUESTIONS:,} are allowed: draw a sample"
        )
    by_meaning = retriever.embedder is not None
    vectors = np.stack(await embedded(retriever, asked, progress=progress)) if by_meaning else _word_vectors(asked)
    chosen = [asked[place] for place in _farthest_first(vectors, min(count, len(asked)))]
    searches = list(pool) if pool is not None else _every_mode(retriever)

    async def one(question: str) -> list[Pooled]:
        found: dict[str, tuple[Passage, list[str]]] = {}
        for search in searches:
            options: SearchOptions = {"top_k": depth, "degrade": False, **search}
            result = await retriever.retrieve(question, tenant=owner, **options)
            documents: dict[str, Passage] = {}
            for passage in result.passages:
                documents.setdefault(passage.document_id, passage)
            for rank, (document, passage) in enumerate(documents.items(), start=1):
                found.setdefault(document, (passage, []))[1].append(f"{_name(search)} {rank}")
        rows = [
            Pooled(question, owner, document, passage.title, passage.text, tuple(by))
            for document, (passage, by) in found.items()
        ]
        random.Random(question).shuffle(rows)
        return rows

    pooled = await in_turn(chosen, one, what="searching", progress=progress)
    return Pool(tuple(row for rows in pooled for row in rows))


def _every_mode(retriever: Retriever) -> list[SearchOptions]:
    modes: tuple[Mode, ...] = get_args(Mode) if retriever.embedder is not None else ("text",)
    return [{"mode": mode, "score_threshold": False, "relative_threshold": False} for mode in modes]


def _name(search: SearchOptions) -> str:
    shown = {name: value for name, value in search.items() if name == "mode" or value not in (None, False)}
    return " ".join(str(value) if name == "mode" else f"{name}={value}" for name, value in shown.items()) or "search"


def _farthest_first(vectors: NDArray[np.floating[Any]], count: int) -> list[int]:
    """Return the positions of `count` vectors: first the one nearest to the mean, then always the one farthest from those already chosen."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1.0)
    chosen = [int(np.argmax(unit @ unit.mean(axis=0)))]
    nearest = unit @ unit[chosen[0]]
    while len(chosen) < count:
        nearest[chosen] = np.inf
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, unit @ unit[chosen[-1]])
    return chosen


def _word_vectors(questions: Sequence[str]) -> NDArray[np.float64]:
    """Return vectors of the questions' words, for a retriever without an embedder."""
    vectors = np.zeros((len(questions), WORDS))
    for row, question in enumerate(questions):
        for word in content_words(question):
            vectors[row, random.Random(word).randrange(WORDS)] += 1
    return vectors

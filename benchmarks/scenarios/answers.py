"""Measures whether quoted answers contain the right answer, with squad in an embedded PostgreSQL, the local embedder, and no model.

The constants of the quotation were chosen on the questions of the first 24 articles. The figures belong to the other 24. The answers' spans are in
`benchmarks/data`, because the data set in `../shared` has the questions only.
"""

from __future__ import annotations

import gzip
import math
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import anyio
import numpy as np
import typer
from tests.support.squad import SQUAD, read_documents, read_lines

from ragcore import RAG, CachedEmbedder, Config, Document, Embedder, LocalEmbedder, meta
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.figures import Figures, Table, Value, say
from ragcore.protocols import Vector
from ragcore.types import Kind, Mode

SPANS = Path(__file__).parents[1] / "data" / "squad_answers.tsv.gz"
MEBI = 1024 * 1024
# Questions whose article is in the collection, and questions whose article is left out, by a filter.
ANSWERABLE, UNANSWERABLE = 1_000, 200
QUICK_ARTICLES, QUICK_ANSWERABLE, QUICK_UNANSWERABLE = 4, 120, 40
TENANT = "squad"
MODES: tuple[Mode | None, ...] = (None, "vector", "text", "hybrid")
# The cosines of some embedders lie between 0.7 and 1.
FLOOR = 0.7
LIMITS = {"gold_in_sentences": 0.70, "gold_in_passages": 0.78, "not_found": -0.12, "false_answers": -0.06}


def run(
    *,
    quick: bool,
    tuned: Annotated[bool, typer.Option(help="Ask the questions on which the constants were chosen.")] = False,
) -> Figures:
    """1,000 questions with an answer and 200 without, in four modes and with a rescaled embedder. With --quick: 4 articles, 120 and 40 questions."""
    return anyio.run(_run, quick, tuned)


@dataclass(frozen=True)
class Asked:
    """A question, the title of its article, and its right answers."""

    text: str
    article: str
    answers: frozenset[str]

    def is_answered_by(self, text: str) -> bool:
        """Whether a text contains one of the right answers word for word."""
        return any(answer in text for answer in self.answers)


class Rescaled:
    """An embedder whose cosines lie between 0.7 and 1, as those of some models do: 0.7 + 0.3 × the cosine of the wrapped embedder."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.model = f"{embedder.model}-rescaled"
        self.dimension = embedder.dimension + 1
        self.max_tokens = embedder.max_tokens
        self.count_tokens = embedder.count_tokens

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        """Return unit vectors of shape (len(texts), dimension)."""
        vectors = np.asarray(await self._embedder.embed(texts, kind=kind), dtype=np.float32)
        constant = np.full((len(vectors), 1), math.sqrt(FLOOR), np.float32)
        return np.hstack([math.sqrt(1 - FLOOR) * vectors, constant]).astype(np.float32)


async def _run(quick: bool, tuned: bool) -> Figures:
    figures = Figures()
    documents, asked = _squad(quick, tuned)
    answerable, unanswerable = (
        _spread(asked, most)
        for most in ((QUICK_ANSWERABLE, QUICK_UNANSWERABLE) if quick else (ANSWERABLE, UNANSWERABLE))
    )
    rows: list[dict[str, Value]] = []
    async with (
        LocalEmbedder() as local,
        # The modes and both embedders share the vectors.
        CachedEmbedder(local, max_bytes=256 * MEBI, kinds=("query", "document")) as embedder,
    ):
        for name, used in (("", embedder), ("rescaled", Rescaled(embedder))):
            async with _client(used) as rag:
                say(f"adding {len(documents):,} passages{name and ', rescaled'} …")
                await rag.add(documents, tenant=TENANT)
                for mode in MODES if not name else MODES[:1]:
                    label = name or mode or f"default ({rag.retriever.mode})"
                    say(f"asking {len(answerable) + len(unanswerable):,} questions: {label} …")
                    found = await _ask(rag, answerable, unanswerable, mode)
                    rows.append({"mode": label, **found})
                    prefix = f"{name or mode}." if name or mode else ""
                    figures.values.update({f"{prefix}{figure}": value for figure, value in found.items()})
    figures.tables.append(Table("Quoted answers", rows))
    figures.values["questions"] = len(answerable)
    if not quick:
        for figure, limit in LIMITS.items():
            value = figures.values[figure]
            assert isinstance(value, float)
            reached = value >= limit if limit > 0 else value <= -limit
            figures.expect(reached, f"{figure} {value:.3f} ({'at least' if limit > 0 else 'at most'} {abs(limit)})")
    return figures


async def _ask(
    rag: RAG, answerable: Sequence[Asked], unanswerable: Sequence[Asked], mode: Mode | None
) -> dict[str, Value]:
    in_sentences = in_passages = not_found = by_words = 0
    seconds = []
    for one in answerable:
        answer = await rag.ask(one.text, tenant=TENANT, mode=mode)
        not_found += not answer.found
        in_sentences += answer.found and one.is_answered_by(answer.text)
        in_passages += any(one.is_answered_by(citation.passage.text) for citation in answer.citations)
        by_words += bool(answer.degraded)
        seconds.append(answer.timings.generate or 0.0)
    false_answers = 0
    for one in unanswerable:
        others = meta("article").ne(one.article)
        false_answers += (await rag.ask(one.text, tenant=TENANT, mode=mode, filter=others)).found
    return {
        "gold_in_sentences": in_sentences / len(answerable),
        "gold_in_passages": in_passages / len(answerable),
        "not_found": not_found / len(answerable),
        "false_answers": false_answers / len(unanswerable),
        "by_words_alone": by_words / len(answerable),
        "quote_p50_ms": 1000 * statistics.median(seconds),
        "quote_p95_ms": 1000 * percentile(seconds, 0.95),
    }


@asynccontextmanager
async def _client(embedder: Embedder) -> AsyncIterator[RAG]:
    with tempfile.TemporaryDirectory() as folder:
        async with RAG.from_config(Config.local(folder), embedder=embedder) as rag:
            yield rag


def _squad(quick: bool, tuned: bool) -> tuple[list[Document], list[Asked]]:
    """Return the documents, and the questions of one half of the articles with their right answers."""
    documents = [replace(document, metadata={"article": document.title}) for document in read_documents()]
    texts = {document.id: document for document in documents}
    titles = list(dict.fromkeys(document.title for document in documents))
    half = titles[: len(titles) // 2] if tuned else titles[len(titles) // 2 :]
    if quick:
        half = half[:QUICK_ARTICLES]
        documents = [document for document in documents if document.title in half]
    labels = dict(line.split("\t")[:2] for line in (SQUAD / "qrels.tsv").read_text().splitlines())
    with gzip.open(SPANS, "rt", encoding="ascii") as file:
        spans = dict(line.rstrip("\n").split("\t", 1) for line in file)
    asked = []
    for row in read_lines("queries.jsonl.gz"):
        document = texts[labels[row["id"]]]
        if document.title in half:
            answers = (span.split("-") for span in spans[row["id"]].split("\t"))
            right = frozenset(document.text[int(start) : int(end)] for start, end in answers)
            asked.append(Asked(row["text"], document.title, right))
    return documents, asked


def _spread(asked: Sequence[Asked], most: int) -> list[Asked]:
    """Return `most` questions at equal distances, so that all articles are among them."""
    return [asked[int(number * len(asked) / most)] for number in range(most)]

"""Measures the quality of retrieval, question by question.

Source: Manning, Raghavan, Schütze, "Introduction to Information Retrieval", ch. 8 (recall, precision, MRR, nDCG).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from ragcore.errors import InvalidInput
from ragcore.explore.fetching import check_known, in_turn
from ragcore.explore.intervals import of_mean
from ragcore.explore.labels import Labelled
from ragcore.explore.results import Result, axes, caution
from ragcore.loadtest.figures import Chart, Line
from ragcore.retrieval.retriever import Retriever

__all__ = ["MEASURES", "Evaluation", "Judged", "evaluate", "judged"]

MEASURES = ("recall", "precision", "mrr", "ndcg", "nothing_found")
# Several chunks of one document count as one document, so more chunks than documents are fetched.
CHUNKS_PER_DOCUMENT = 4


@dataclass(frozen=True, slots=True)
class Judged:
    """The measures of one question at k, each in [0, 1]. `nothing_found` is 1 if the search returned no passage, else 0."""

    question: str
    recall: float
    precision: float
    mrr: float
    ndcg: float
    nothing_found: float = 0.0


@dataclass(frozen=True, slots=True)
class Evaluation(Result):
    """The measures of each question, for the first `k` documents."""

    k: int
    questions: tuple[Judged, ...]

    def mean(self, measure: str) -> float:
        """Return the mean of "recall", "precision", "mrr", "ndcg" or "nothing_found" over all questions."""
        return float(np.mean(self._values(measure)))

    def interval(self, measure: str, *, seed: int = 0) -> tuple[float, float]:
        """Return the 95 % interval of a mean: see `intervals.of_mean`."""
        return of_mean(self._values(measure), least=0.0, most=1.0, seed=seed)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each question."""
        return [asdict(judged) for judged in self.questions]

    def plot(self) -> Any:
        """Plot the means with their intervals. Returns matplotlib axes."""
        plot = axes()
        means = [self.mean(measure) for measure in MEASURES]
        errors = np.abs(np.array([self.interval(measure) for measure in MEASURES]).T - means)
        plot.bar(
            self._names(),
            means,
            yerr=errors,
            color="0.6",
            edgecolor="black",
            capsize=4,
        )
        plot.set_ylim(0, 1)
        plot.set_ylabel("mean over questions")
        return plot

    def _names(self) -> list[str]:
        return [measure.replace("_", " ") + f"@{self.k}" * (measure != "nothing_found") for measure in MEASURES]

    def measures_to_dicts(self) -> list[dict[str, Any]]:
        """A row for each measure, with its mean and 95 % interval."""
        rows = []
        for name, measure in zip(self._names(), MEASURES, strict=True):
            low, high = self.interval(measure)
            rows.append({"measure": name, "mean": self.mean(measure), "low": low, "high": high})
        return rows

    def _charts(self) -> list[Chart]:
        rows = self.measures_to_dicts()
        both = [(row["low"], row["high"]) for row in rows]
        line = Line("mean", range(len(rows)), [row["mean"] for row in rows], both)
        return [
            Chart(
                "Means with 95 % intervals",
                "",
                f"mean over {len(self.questions):,} questions",
                [line],
                ticks=self._names(),
            )
        ]

    def _tables(self) -> list[tuple[str, list[dict[str, Any]]]]:
        return [("Means with 95 % intervals", self.measures_to_dicts()), ("Questions", self.to_dicts())]

    def __repr__(self) -> str:
        return (
            f"Evaluation({len(self.questions)} questions, k={self.k}: "
            + ", ".join(f"{measure.replace('_', ' ')} {self.mean(measure):.3f}" for measure in MEASURES)
            + f"{caution(len(self.questions))})"
        )

    def _values(self, measure: str) -> Sequence[float]:
        return [getattr(judged, measure) for judged in self.questions]

    def _state(self) -> dict[str, Any]:
        return {"k": self.k, "questions": self.to_dicts()}

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        return cls(state["k"], tuple(Judged(**row) for row in state["questions"]))


async def evaluate(
    retriever: Retriever, labelled: Iterable[Labelled], *, k: int = 10, progress: bool = False
) -> Evaluation:
    """Retrieve for each question and judge the first `k` documents. Questions without relevant documents, such as unanswerable ones, are left out.

    Args:
        retriever: the retriever to evaluate.
        labelled: questions with their relevant documents.
        k: number of documents to judge.
        progress: show a progress bar. Extra `notebook`.

    Raises:
        InvalidInput: there are no labels, k is below 1, a tenant has no chunks, or none of its labelled documents is stored.
        EmbeddingError, RerankingError: the embedder or the reranker failed. No fallback is used, because it would be judged as the configured search.
    """
    labels = [label for label in labelled if label.grades()]
    if not labels:
        raise InvalidInput("no labelled question with a relevant document to evaluate: pass at least one")
    if k < 1:
        raise InvalidInput(f"k is {k}: it must be at least 1")
    await check_known(retriever, labels)

    async def one(label: Labelled) -> Judged:
        retrieval = await retriever.retrieve(
            label.question, tenant=label.tenant, top_k=min(CHUNKS_PER_DOCUMENT * k, 1_000), degrade=False
        )
        return judged(label, [passage.document_id for passage in retrieval.passages], k)

    return Evaluation(k, tuple(await in_turn(labels, one, what="evaluating", progress=progress)))


def judged(label: Labelled, documents: Iterable[str], k: int) -> Judged:
    """Judge the first `k` different documents of a search, best first."""
    ranking = list(dict.fromkeys(documents))[:k]
    grades = label.grades()
    gains = [grades.get(document, 0) for document in ranking]
    found = sum(gain > 0 for gain in gains)
    first = next((rank for rank, gain in enumerate(gains, start=1) if gain), None)
    ideal = _dcg(sorted(grades.values(), reverse=True)[:k])
    return Judged(
        question=label.question,
        recall=found / len(grades) if grades else 0.0,
        precision=found / k,
        mrr=1 / first if first else 0.0,
        ndcg=_dcg(gains) / ideal if ideal else 0.0,
        nothing_found=float(not ranking),
    )


def _dcg(gains: Sequence[int]) -> float:
    return float(sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains, start=1)))

"""Measures the quality of retrieval, question by question, and compares two evaluations.

Sources: Manning, Raghavan, Schütze, "Introduction to Information Retrieval", ch. 8 (recall, precision, MRR, nDCG); Smucker, Allan, Carterette,
CIKM 2007 (the paired randomisation test).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from ragcore.errors import InvalidInput
from ragcore.explore.fetching import check_known, in_turn
from ragcore.explore.labels import Labelled
from ragcore.explore.results import Result, axes, caution
from ragcore.retrieval.retriever import Retriever

__all__ = ["Comparison", "Evaluation", "compare", "evaluate"]

ROUNDS = 10_000
MEASURES = ("recall", "precision", "mrr", "ndcg")
# Several chunks of one document count as one document, so more chunks than documents are fetched.
CHUNKS_PER_DOCUMENT = 4


@dataclass(frozen=True, slots=True)
class Judged:
    """The measures of one question at k, each in [0, 1]."""

    question: str
    recall: float
    precision: float
    mrr: float
    ndcg: float


@dataclass(frozen=True, slots=True)
class Evaluation(Result):
    """The measures of each question, for the first `k` documents."""

    k: int
    questions: tuple[Judged, ...]

    def mean(self, measure: str) -> float:
        """Return the mean of "recall", "precision", "mrr" or "ndcg" over all questions."""
        return float(np.mean(self._values(measure)))

    def interval(self, measure: str, *, seed: int = 0) -> tuple[float, float]:
        """Return the 95 % bootstrap interval of a mean."""
        values = self._values(measure)
        means = np.random.default_rng(seed).choice(values, size=(1_000, len(values))).mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each question."""
        return [asdict(judged) for judged in self.questions]

    def plot(self) -> Any:
        """Plot the means with their intervals. Returns matplotlib axes."""
        plot = axes()
        means = [self.mean(measure) for measure in MEASURES]
        errors = np.abs(np.array([self.interval(measure) for measure in MEASURES]).T - means)
        plot.bar(
            [f"{measure}@{self.k}" for measure in MEASURES],
            means,
            yerr=errors,
            color="0.6",
            edgecolor="black",
            capsize=4,
        )
        plot.set_ylim(0, 1)
        plot.set_ylabel("mean over questions")
        return plot

    def __repr__(self) -> str:
        return (
            f"Evaluation({len(self.questions)} questions, k={self.k}: "
            + ", ".join(f"{m} {self.mean(m):.3f}" for m in MEASURES)
            + f"{caution(len(self.questions))})"
        )

    def _values(self, measure: str) -> Sequence[float]:
        return [getattr(judged, measure) for judged in self.questions]

    def _state(self) -> dict[str, Any]:
        return {"k": self.k, "questions": self.to_dicts()}

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        return cls(state["k"], tuple(Judged(**row) for row in state["questions"]))


@dataclass(frozen=True, slots=True)
class Comparison(Result):
    """Two evaluations of the same questions.

    Attributes:
        a, b: the evaluations.
        difference: mean nDCG of `b` minus that of `a`.
        p_value: probability of a difference in nDCG at least this large by chance.
    """

    a: Evaluation
    b: Evaluation
    difference: float
    p_value: float

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each question, sorted by the size of the change, largest first."""
        rows = [
            {"question": one.question, "a": one.ndcg, "b": other.ndcg, "change": other.ndcg - one.ndcg}
            for one, other in zip(self.a.questions, self.b.questions, strict=True)
        ]
        return sorted(rows, key=lambda row: -abs(float(str(row["change"]))))

    @property
    def better(self) -> list[str]:
        """The questions for which `b` is better, largest gain first."""
        return [row["question"] for row in self.to_dicts() if row["change"] > 0]

    @property
    def worse(self) -> list[str]:
        """The questions for which `b` is worse, largest loss first."""
        return [row["question"] for row in self.to_dicts() if row["change"] < 0]

    def plot(self) -> Any:
        """Plot the change of nDCG for each question, sorted. Returns matplotlib axes."""
        plot = axes()
        changes = sorted(float(row["change"]) for row in self.to_dicts())
        plot.bar(range(len(changes)), changes, color="0.4", width=1.0)
        plot.axhline(0, color="black", linewidth=0.8)
        plot.set_xlabel("questions, sorted")
        plot.set_ylabel(f"change of nDCG@{self.a.k}")
        return plot

    def __repr__(self) -> str:
        return (
            f"Comparison(nDCG@{self.a.k} {self.difference:+.3f}, p = {self.p_value:.3f}, {len(self.a.questions)} questions: "
            f"{len(self.better)} better, {len(self.worse)} worse{caution(len(self.a.questions))})"
        )

    def _state(self) -> dict[str, Any]:
        return {"a": self.a._state(), "b": self.b._state(), "difference": self.difference, "p_value": self.p_value}

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        return cls(
            Evaluation._restored(state["a"]), Evaluation._restored(state["b"]), state["difference"], state["p_value"]
        )


async def evaluate(
    retriever: Retriever, labelled: Iterable[Labelled], *, k: int = 10, progress: bool = False
) -> Evaluation:
    """Retrieve for each question and judge the first `k` documents.

    Args:
        retriever: the retriever to evaluate.
        labelled: questions with their relevant documents.
        k: number of documents to judge.
        progress: show a progress bar. Extra `notebook`.

    Raises:
        InvalidInput: there are no labels, k is below 1, a tenant has no chunks, or none of its labelled documents is stored.
        EmbeddingError, RerankingError: the embedder or the reranker failed. A fallback would be judged as if it were the configured search.
    """
    labels = list(labelled)
    if not labels:
        raise InvalidInput("no labelled questions to evaluate: pass at least one")
    if k < 1:
        raise InvalidInput(f"k is {k}: it must be at least 1")
    await check_known(retriever, labels)

    async def one(label: Labelled) -> Judged:
        retrieval = await retriever.retrieve(
            label.question, tenant=label.tenant, top_k=min(CHUNKS_PER_DOCUMENT * k, 1_000), degrade=False
        )
        ranking = list(dict.fromkeys(passage.document_id for passage in retrieval.passages))[:k]
        return _judge(label, ranking, k)

    return Evaluation(k, tuple(await in_turn(labels, one, what="evaluating", progress=progress)))


def compare(a: Evaluation, b: Evaluation, /) -> Comparison:
    """Test whether `a` and `b` differ, by a two-sided paired randomisation test on nDCG.

    Raises:
        InvalidInput: the evaluations have different questions or a different k.
    """
    if a.k != b.k or [one.question for one in a.questions] != [one.question for one in b.questions]:
        raise InvalidInput("the two evaluations must have the same questions, in the same order, and the same k")
    changes = np.array([other.ndcg - one.ndcg for one, other in zip(a.questions, b.questions, strict=True)])
    observed = float(changes.mean())
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(ROUNDS, len(changes)))
    extreme = np.count_nonzero(np.abs((signs * changes).mean(axis=1)) >= abs(observed) - 1e-12)
    return Comparison(a, b, observed, float((extreme + 1) / (ROUNDS + 1)))


def _judge(label: Labelled, ranking: Sequence[str], k: int) -> Judged:
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
    )


def _dcg(gains: Sequence[int]) -> float:
    return float(sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains, start=1)))

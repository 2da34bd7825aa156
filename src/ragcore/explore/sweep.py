"""Which threshold: scores fetched once, swept without new queries, and one recommended for a stated aim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ragcore.errors import InvalidInput, Unsupported
from ragcore.explore.labels import Labelled
from ragcore.explore.results import Result, axes
from ragcore.protocols import Store
from ragcore.retriever import Retriever

__all__ = ["Aim", "Sweep", "thresholds"]

Aim: TypeAlias = Literal["f1", "recall", "found"]

ROUNDS = 200
LEAST_RECALL = 0.95
MOST_NOTHING_FOUND = 0.05
MEASURES = ("precision", "recall", "f1", "nothing_found", "passages")

Table: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sweep(Result):
    """Measures by threshold, and the threshold recommended for an aim.

    Attributes:
        aim: "f1": the best F1; "recall": recall of at least 0.95 with the fewest passages; "found": at most 5 % of the questions find nothing.
        recommended: the threshold for it.
        interval: its 95 % bootstrap interval over the questions.
        rows: threshold, precision, recall, F1, share of questions with nothing found, mean passages.
    """

    aim: Aim
    recommended: float
    interval: tuple[float, float]
    rows: tuple[tuple[float, ...], ...]

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each threshold."""
        return [dict(zip(("threshold", *MEASURES), row, strict=True)) for row in self.rows]

    def plot(self) -> Any:
        """Precision, recall and F1 by threshold, as matplotlib axes."""
        plot = axes()
        grid = [row[0] for row in self.rows]
        for number, (name, style) in enumerate(
            (("precision", "--"), ("recall", "-."), ("F1", "-"), ("nothing found", ":")), start=1
        ):
            plot.plot(grid, [row[number] for row in self.rows], style, color="black", label=name)
        plot.axvspan(*self.interval, color="0.85", zorder=0)
        plot.axvline(self.recommended, color="0.4", linewidth=1.0, label=f"recommended {self.recommended:.2f}")
        plot.set_xlabel("score threshold (cosine similarity)")
        plot.set_ylabel("mean over questions")
        plot.set_ylim(0, 1.02)
        plot.legend(frameon=False)
        return plot

    def __repr__(self) -> str:
        low, high = self.interval
        return f"Sweep({len(self.rows)} thresholds, recommended {self.recommended:.2f} for {self.aim}, 95 % interval {low:.2f} to {high:.2f})"

    def _state(self) -> dict[str, Any]:
        return {
            "aim": self.aim,
            "recommended": self.recommended,
            "interval": list(self.interval),
            "rows": [list(row) for row in self.rows],
        }

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        low, high = state["interval"]
        return cls(state["aim"], state["recommended"], (low, high), tuple(tuple(row) for row in state["rows"]))


async def thresholds(
    retriever: Retriever, labelled: Iterable[Labelled], *, grid: Sequence[float] | None = None, aim: Aim = "f1"
) -> Sweep:
    """Sweep the score threshold over `grid`.

    Each question's best `retriever.top_k` chunks are fetched once; a chunk is right if its document is relevant.

    Args:
        grid: thresholds in ascending order; None: 0.00, 0.01, … 1.00.
        aim: what the recommended threshold is to reach.

    Raises:
        InvalidInput: no labels, or none with a relevant document.
        Unsupported: a store without scores, or no embedder.
    """
    labels = list(labelled)
    steps = np.array([number / 100 for number in range(101)] if grid is None else grid, dtype=np.float64)
    if not any(label.grades() for label in labels):
        raise InvalidInput("there is no labelled question with a relevant document")
    if len(steps) == 0:
        raise InvalidInput("the grid is empty")
    table = np.stack(
        [
            _measure(scores, right, relevant, steps)
            for scores, right, relevant in [await _fetch(retriever, label) for label in labels]
        ]
    )
    best = _recommend(table.mean(axis=0), steps, aim)
    return Sweep(
        aim,
        best,
        _interval(table, steps, aim),
        tuple(tuple(map(float, (step, *row))) for step, row in zip(steps, table.mean(axis=0), strict=True)),
    )


async def _fetch(retriever: Retriever, label: Labelled) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """(scores of the best chunks, whether each is right, how many documents are relevant)."""
    store, embedder = retriever.store, retriever.embedder
    if not isinstance(store, Store) or embedder is None:
        raise Unsupported("a sweep needs an embedder, and a store with scores")
    vector = np.asarray(await embedder.embed([label.question], kind="query"), dtype=np.float32)[0]
    found = await store.scores(vector, tenant=label.tenant, limit=retriever.top_k)
    grades = label.grades()
    right = np.array([document in grades for document in found.document_ids], dtype=np.bool_)
    return found.scores, right, len(grades)


def _measure(scores: NDArray[np.float32], right: NDArray[np.bool_], relevant: int, steps: Table) -> Table:
    """(len(steps), 5): the measures of one question at each threshold."""
    passing = scores[np.newaxis, :] >= steps[:, np.newaxis].astype(np.float32)
    passages = passing.sum(axis=1)
    hits = (passing & right).sum(axis=1)
    precision = np.divide(hits, passages, out=np.zeros(len(steps)), where=passages > 0)
    recall = np.minimum(hits, relevant) / relevant if relevant else np.zeros(len(steps))
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros(len(steps)), where=total > 0)
    return np.stack([precision, recall, f1, (passages == 0).astype(np.float64), passages.astype(np.float64)], axis=1)


def _recommend(means: Table, steps: Table, aim: Aim) -> float:
    precision_recall_f1 = means[:, :3]
    match aim:
        case "f1":
            return float(steps[int(np.argmax(precision_recall_f1[:, 2]))])
        case "recall":
            enough = np.flatnonzero(means[:, 1] >= min(LEAST_RECALL, float(np.max(means[:, 1]))))
        case _:
            enough = np.flatnonzero(means[:, 3] <= max(MOST_NOTHING_FOUND, float(np.min(means[:, 3]))))
    return float(steps[int(enough[-1])])


def _interval(table: Table, steps: Table, aim: Aim) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    drawn = [
        _recommend(table[rng.integers(len(table), size=len(table))].mean(axis=0), steps, aim) for _ in range(ROUNDS)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)

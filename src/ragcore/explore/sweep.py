"""Sweeps thresholds over scores that are fetched once, and recommends one for an aim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ragcore.errors import InvalidInput
from ragcore.explore.fetching import Fetched, check_known, check_scores, fetch
from ragcore.explore.labels import Labelled
from ragcore.explore.results import Result, axes, caution
from ragcore.retrieval.retriever import Retriever

__all__ = ["Aim", "Sweep", "thresholds"]

Aim: TypeAlias = Literal["f1", "recall", "found"]

ROUNDS = 400
LEAST_RECALL = 0.95
NEARLY = 0.99
MOST_NOTHING_FOUND = 0.05
# Tolerance for rounding when rates are compared.
ROUNDED = 1e-9
MEASURES = ("precision", "recall", "f1", "nothing_found", "passages", "tokens")
BINS = 40

Table: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Sweep(Result):
    """Measures by threshold, and the threshold recommended for an aim.

    Attributes:
        aim: "f1": the best F1; "recall": recall of at least 0.95 with the fewest tokens, or 99 % of the maximum if 0.95 is impossible; "found": the
            highest threshold at which at most 5 % of the questions find nothing, or the smallest possible share if 5 % is impossible.
        recommended: the recommended threshold for the aim.
        interval: 95 % interval for the recommendation that another sample of the same size would give.
        rows: for each threshold: threshold, precision, recall, F1, share of questions with nothing found, mean number of passages and mean number of
            tokens that pass.
        relative: the same for thresholds relative to the best score of each question, from 0 to 1.
        recommended_relative: the recommended relative threshold for the aim.
        right, wrong: number of fetched chunks of relevant and of other documents with a score in each bin.
        bins: edges of the bins.
        tags: for each tag: name, number of questions, precision, recall, F1 and share with nothing found at the recommended threshold, and the
            threshold that would be recommended for this tag alone.
        questions: number of questions.
        unknown: labelled documents that are not in the store.
    """

    aim: Aim
    recommended: float
    interval: tuple[float, float]
    rows: Rows
    relative: Rows
    recommended_relative: float
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    bins: tuple[float, ...]
    tags: tuple[tuple[str, int, float, float, float, float, float], ...]
    questions: int
    unknown: tuple[str, ...] = ()

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each threshold."""
        return [dict(zip(("threshold", *MEASURES), row, strict=True)) for row in self.rows]

    def tags_to_dicts(self) -> list[dict[str, Any]]:
        """A row for each tag."""
        names = ("tag", "questions", *MEASURES[:4], "recommended")
        return [dict(zip(names, row, strict=True)) for row in self.tags]

    def plot(self) -> Any:
        """Plot precision, recall and F1 by threshold. Returns matplotlib axes."""
        plot = axes()
        grid = [row[0] for row in self.rows]
        for number, (name, style) in enumerate(
            (("precision", "--"), ("recall", "-."), ("F1", "-"), ("nothing found", ":")), start=1
        ):
            plot.plot(grid, [row[number] for row in self.rows], style, color="black", label=name)
        plot.axvspan(*self.interval, color="0.85", zorder=0)
        plot.axvline(self.recommended, color="0.4", linewidth=1.0, label=f"recommended {self.recommended:.2f}")
        plot.set_xlabel("score threshold (cosine similarity)")
        plot.set_ylabel(f"mean over {self.questions:,} questions")
        plot.set_ylim(0, 1.02)
        plot.legend(frameon=False)
        return plot

    def plot_scores(self) -> Any:
        """Plot the distribution of the scores of right and wrong chunks. Returns matplotlib axes."""
        plot = axes()
        edges = np.array(self.bins)
        for counts, name, style in (
            (self.right, "right", {"color": "0.3"}),
            (self.wrong, "wrong", {"fill": False, "hatch": "//"}),
        ):
            total = max(1, sum(counts))
            shares = [100 * count / total for count in counts]
            plot.bar(
                edges[:-1],
                shares,
                np.diff(edges),
                align="edge",
                edgecolor="black",
                linewidth=0.6,
                label=f"{name} ({total:,})",
                **style,
            )
        plot.axvline(
            self.recommended, color="black", linewidth=1.2, linestyle="--", label=f"recommended {self.recommended:.2f}"
        )
        plot.set_xlabel("score (cosine similarity)")
        plot.set_ylabel("% of the chunks")
        plot.legend(frameon=False)
        return plot

    def _plots(self) -> list[Any]:
        return [self.plot(), self.plot_scores()]

    def __repr__(self) -> str:
        low, high = self.interval
        missing = ""
        if self.unknown:
            some = ", ".join(map(str, self.unknown[:3])) + (", …" if len(self.unknown) > 3 else "")
            missing = f", labelled documents that are not in the store: {len(self.unknown)} ({some})"
        return (
            f"Sweep({self.questions:,} questions, {len(self.rows)} thresholds, recommended {self.recommended:.2f} for {self.aim}, "
            f"95 % interval {low:.2f} to {high:.2f}{missing}{caution(self.questions)})"
        )

    def _state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        return cls(**{name: _as_tuple(value) for name, value in state.items()})


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


async def thresholds(
    retriever: Retriever,
    labelled: Iterable[Labelled],
    *,
    grid: Sequence[float] | None = None,
    aim: Aim = "f1",
    progress: bool = False,
) -> Sweep:
    """Sweep the score threshold over `grid`.

    The best `retriever.top_k` chunks of each question are fetched once. Precision is the share of passing chunks that belong to relevant documents.
    Recall is the share of relevant documents with a passing chunk.

    Args:
        retriever: the retriever to explore; it needs an embedder and a store with scores.
        labelled: questions with their relevant documents.
        grid: thresholds in ascending order; None: 0.00, 0.01, … 1.00.
        aim: the aim of the recommended threshold: "f1", "recall" or "found"; see `Sweep`.
        progress: show a progress bar. Extra `notebook`.

    Raises:
        InvalidInput: there are fewer than two labelled questions, none has a relevant document, a tenant has no chunks, or none of its labelled
            documents is stored.
        StoreError: a score is not a number.
        Unsupported: the store has no scores, or there is no embedder.
    """
    labels = list(labelled)
    steps = np.array([number / 100 for number in range(101)] if grid is None else grid, dtype=np.float64)
    if aim not in ("f1", "recall", "found"):
        raise InvalidInput(f"aim is {aim!r}: it must be 'f1', 'recall' or 'found'")
    if not any(label.grades() for label in labels):
        raise InvalidInput("no labelled question has a relevant document: label at least two questions")
    if len(labels) < 2:
        raise InvalidInput("one question is not enough to choose a threshold: label at least 2, better 50")
    if len(steps) == 0 or not np.isfinite(steps).all() or (np.diff(steps) <= 0).any():
        raise InvalidInput("the grid must contain finite thresholds in ascending order")
    check_scores(retriever)
    unknown = await check_known(retriever, labels)
    return sweep(await fetch(retriever, labels, progress=progress), steps, aim, unknown)


def sweep(fetched: Sequence[Fetched], steps: Table, aim: Aim, unknown: tuple[str, ...] = ()) -> Sweep:
    """Compute a sweep from fetched scores, without any query."""
    table = np.stack([_measure(one, one.scores, steps) for one in fetched])
    shares = np.linspace(0.0, 1.0, 101)
    relative = np.stack([_measure(one, _relative(one.scores), shares) for one in fetched])
    means = table.mean(axis=0)
    best = _recommend(means, steps, aim)
    edges = np.linspace(*_range(fetched), BINS + 1)
    counts = [
        np.histogram(np.concatenate([one.scores[one.right == wanted] for one in fetched]), bins=edges)[0]
        for wanted in (True, False)
    ]
    return Sweep(
        aim=aim,
        recommended=best,
        interval=_interval(table, steps, aim, best),
        rows=_rows(steps, means),
        relative=_rows(shares, relative.mean(axis=0)),
        recommended_relative=_recommend(relative.mean(axis=0), shares, aim),
        right=tuple(map(int, counts[0])),
        wrong=tuple(map(int, counts[1])),
        bins=tuple(map(float, edges)),
        tags=_tags(fetched, table, steps, aim, best),
        questions=len(fetched),
        unknown=unknown,
    )


def _measure(one: Fetched, scores: NDArray[np.float32], steps: Table) -> Table:
    """Return the measures of one question at each threshold, shape (len(steps), 6)."""
    passing = scores[np.newaxis, :] >= steps[:, np.newaxis].astype(np.float32)
    passages = passing.sum(axis=1)
    hits = (passing & one.right).sum(axis=1)
    precision = np.divide(hits, passages, out=np.zeros(len(steps)), where=passages > 0)
    documents = (passing & one.right & one.first).sum(axis=1)
    recall = documents / one.relevant if one.relevant else np.zeros(len(steps))
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros(len(steps)), where=total > 0)
    tokens = (passing * one.tokens).sum(axis=1)
    nothing = (passages == 0).astype(np.float64)
    return np.stack([precision, recall, f1, nothing, passages.astype(np.float64), tokens.astype(np.float64)], axis=1)


def _relative(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide scores by the best one. If the best score is not positive, all become 1."""
    if not len(scores) or scores[0] <= 0:
        return np.ones_like(scores)
    return np.asarray(scores / scores[0], dtype=np.float32)


def _range(fetched: Sequence[Fetched]) -> tuple[float, float]:
    scores = np.concatenate([one.scores for one in fetched])
    if not len(scores):
        return 0.0, 1.0
    low, high = float(scores.min()), float(scores.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _rows(steps: Table, means: Table) -> Rows:
    return tuple(tuple(map(float, (step, *row))) for step, row in zip(steps, means, strict=True))


def _recommend(means: Table, steps: Table, aim: Aim) -> float:
    match aim:
        case "f1":
            # Of equally good thresholds, take the highest: it passes the fewest chunks.
            return float(steps[int(np.flatnonzero(means[:, 2] >= np.max(means[:, 2]) - ROUNDED)[-1])])
        case "recall":
            most = float(np.max(means[:, 1]))
            # One question can decide the maximum, so if 0.95 is impossible, 99 % of the maximum is enough.
            wanted = LEAST_RECALL if most >= LEAST_RECALL else NEARLY * most
            enough = np.flatnonzero(means[:, 1] >= wanted - ROUNDED)
            return float(steps[int(enough[np.argmin(means[enough, 5])])])
        case _:
            enough = np.flatnonzero(means[:, 3] <= max(MOST_NOTHING_FOUND, float(np.min(means[:, 3]))) + ROUNDED)
            return float(steps[int(enough[-1])])


def _interval(table: Table, steps: Table, aim: Aim, best: float) -> tuple[float, float]:
    """Return the interval by the bootstrap over questions (Efron 1979), widened by √2 because another sample has the same scatter as this one."""
    rng = np.random.default_rng(0)
    count = len(table)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=ROUNDS) / count
    drawn = (weights @ table.reshape(count, -1)).reshape(ROUNDS, *table.shape[1:])
    found = np.array([_recommend(means, steps, aim) for means in drawn])
    # Use the larger deviation on both sides: the draws have few different values, so a shorter side is only chance. Half a step covers rounding to the grid.
    half = float(np.median(np.diff(steps))) / 2 if len(steps) > 1 else 0.0
    reach = np.sqrt(2) * float(np.abs(np.quantile(found, [0.025, 0.975]) - best).max()) + half
    return float(max(best - reach, steps[0])), float(min(best + reach, steps[-1]))


def _tags(
    fetched: Sequence[Fetched], table: Table, steps: Table, aim: Aim, best: float
) -> tuple[tuple[str, int, float, float, float, float, float], ...]:
    place = int(np.flatnonzero(steps == best)[0])
    rows = []
    for tag in sorted({tag for one in fetched for tag in one.label.tags}):
        part = table[[tag in one.label.tags for one in fetched]]
        means = part.mean(axis=0)
        precision, recall, f1, nothing = map(float, means[place, :4])
        rows.append((tag, len(part), precision, recall, f1, nothing, _recommend(means, steps, aim)))
    return tuple(rows)

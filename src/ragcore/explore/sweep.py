"""Sweeps thresholds over scores that are fetched once, and recommends one for an aim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ragcore.errors import InvalidInput
from ragcore.explore.aims import MEASURES, MOST_NOTHING_FOUND, ROUNDED, Aim, Table, recommend, ties
from ragcore.explore.fetching import Fetched, check_known, check_scores, fetch
from ragcore.explore.intervals import of_share
from ragcore.explore.labels import Labelled
from ragcore.explore.results import Result, axes, caution, percent
from ragcore.loadtest.figures import Chart, Line, Mark, Shade
from ragcore.retrieval.retriever import Retriever

__all__ = ["Aim", "Sweep", "thresholds"]

ROUNDS = 400
BINS = 40

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
        relative: the same measures for thresholds relative to the best score of each question, from 0 to 1.
        recommended_relative: the recommended relative threshold for the aim. The aim "found" has the recommendation of "recall", because a relative threshold
            never drops all passages.
        right, wrong: number of fetched chunks of relevant and of other documents with a score in each bin.
        bins: edges of the bins.
        tags: a tuple for each tag. It has the name, the number of questions, four measures at the recommended threshold (precision, recall, F1, share with
            nothing found), and the threshold that would be recommended for this tag alone.
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
        """A row for each threshold. "recommended" is True in one of them."""
        return _named(self.rows, self.recommended)

    def relative_to_dicts(self) -> list[dict[str, Any]]:
        """A row for each relative threshold. "recommended" is True in one of them."""
        return _named(self.relative, self.recommended_relative)

    def aims_to_dicts(self) -> list[dict[str, Any]]:
        """A row for each aim and each kind of threshold: the recommended threshold, and the measures at that threshold.

        "recommended" is True in the row of this sweep's own aim with an absolute threshold.
        """
        found = []
        for kind, rows in (("absolute", self.rows), ("relative", self.relative)):
            table = np.array(rows)
            for aim in get_args(Aim):
                best = recommend(table[:, 1:], table[:, 0], aim if kind == "absolute" else _relative_aim(aim))
                row = next(row for row in _named(rows, best) if row["recommended"])
                chosen = aim == self.aim and kind == "absolute"
                found.append({"aim": aim, "kind": kind, **row, "recommended": chosen})
        return found

    @property
    def ties(self) -> tuple[float, float]:
        """The lowest and the highest threshold that reach the aim as well as the recommended one does."""
        table = np.array(self.rows)
        return ties(table[:, 1:], table[:, 0], self.aim, self.recommended)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the measures at the recommended threshold, equally good thresholds, and a better choice if too many questions find nothing."""
        own = next(row for row in self.to_dicts() if row["recommended"])
        near = next(row for row in self.relative_to_dicts() if row["recommended"])
        low, high = of_share(own["nothing_found"] * self.questions, self.questions)
        cost = (
            f"At the recommended threshold {self.recommended:.2f}, recall is {own['recall']:.3f}, and nothing is found for "
            f"{percent(own['nothing_found'], self.questions)}, 95 % interval {100 * low:.0f} to {100 * high:.0f} %."
        )
        notes = [cost]
        first, last = self.ties
        if last > first:
            same = {
                "f1": "the same F1",
                "recall": "the same recall and tokens",
                "found": "the same share with nothing found",
            }
            why = {"f1": "highest, which passes the fewest chunks", "recall": "lowest", "found": "highest"}
            notes.append(
                f"The thresholds from {first:.2f} to {last:.2f} have {same[self.aim]} for these questions; the recommended one is the {why[self.aim]}."
            )
        if own["nothing_found"] > MOST_NOTHING_FOUND:
            gentle = next(row for row in self.aims_to_dicts() if (row["aim"], row["kind"]) == ("found", "absolute"))
            notes.append(
                f"To find something more often, choose aim 'found' (threshold {gentle['threshold']:.2f}: recall {gentle['recall']:.3f}, nothing found "
                f"{100 * gentle['nothing_found']:.0f} %)."
            )
        cost = f"recall {near['recall']:.3f}, nothing found {100 * near['nothing_found']:.0f} %, {near['passages']:.1f} passages for each question"
        share = f"{self.recommended_relative:.2f}"
        if near["f1"] > own["f1"] + ROUNDED:
            notes.append(
                f"A relative threshold of {share} has a better F1, {near['f1']:.3f} instead of {own['f1']:.3f}: {cost}. Set relative_threshold={share}."
            )
        else:
            notes.append(f"A relative threshold has no better F1: {share} has {near['f1']:.3f} ({cost}).")
        return tuple(notes)

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

    def _charts(self) -> list[Chart]:
        grid = [row[0] for row in self.rows]
        names = ("precision", "recall", "F1", "nothing found")
        mark = Mark(f"recommended {self.recommended:.2f}", self.recommended)
        return [
            Chart(
                "Measures by score threshold; grey: the 95 % interval of the recommendation",
                "score threshold (cosine similarity)",
                f"mean over {self.questions:,} questions",
                [Line(name, grid, [row[place] for row in self.rows]) for place, name in enumerate(names, start=1)],
                shades=(Shade("95 % interval", *self.interval),),
                marks=(mark,),
            ),
            Chart(
                "Measures by relative threshold",
                "share of the best score of the question",
                f"mean over {self.questions:,} questions",
                [
                    Line(name, [row[0] for row in self.relative], [row[place] for row in self.relative])
                    for place, name in enumerate(names, start=1)
                ],
                marks=(Mark(f"recommended {self.recommended_relative:.2f}", self.recommended_relative),),
            ),
            Chart(
                "Scores of right and wrong chunks",
                "score (cosine similarity)",
                "% of the chunks",
                [
                    Line(
                        f"{name} ({sum(counts):,})", self.bins, [100 * count / max(1, sum(counts)) for count in counts]
                    )
                    for name, counts in (("right", self.right), ("wrong", self.wrong))
                ],
                marks=(mark,),
                bars=True,
            ),
        ]

    def _tables(self) -> list[tuple[str, list[dict[str, Any]]]]:
        return [
            ("What each aim recommends", self.aims_to_dicts()),
            ("Tags, at the recommended threshold", self.tags_to_dicts()),
            ("Score thresholds", self.to_dicts()),
            ("Relative thresholds", self.relative_to_dicts()),
        ]

    def _shown(self) -> list[dict[str, Any]]:
        """Return about 20 rows over the whole grid, and the recommended one with its neighbours."""
        rows = self.to_dicts()
        best = next(place for place, row in enumerate(rows) if row["recommended"])
        every = max(1, len(rows) // 20)
        return [row for place, row in enumerate(rows) if place % every == 0 or abs(place - best) <= 2]

    def __repr__(self) -> str:
        low, high = self.interval
        own = next(row for row in self.to_dicts() if row["recommended"])
        missing = ""
        if self.unknown:
            some = ", ".join(map(str, self.unknown[:3])) + (", …" if len(self.unknown) > 3 else "")
            missing = f", labelled documents that are not in the store: {len(self.unknown)} ({some})"
        return (
            f"Sweep({self.questions:,} questions, {len(self.rows)} thresholds, recommended {self.recommended:.2f} for {self.aim}, "
            f"95 % interval {low:.2f} to {high:.2f}: F1 {own['f1']:.3f}, recall {own['recall']:.3f}, nothing found for "
            f"{percent(own['nothing_found'], self.questions)}{missing}{caution(self.questions)})"
        )

    def _state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        return cls(**{name: _as_tuple(value) for name, value in state.items()})


def _named(rows: Rows, recommended: float) -> list[dict[str, Any]]:
    return [
        {**dict(zip(("threshold", *MEASURES), row, strict=True)), "recommended": row[0] == recommended} for row in rows
    ]


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
    Recall is the share of relevant documents with a passing chunk. Questions without relevant documents, such as unanswerable ones, are left out.

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
    answerable = [label for label in labels if label.grades()]
    steps = np.array([number / 100 for number in range(101)] if grid is None else grid, dtype=np.float64)
    if aim not in ("f1", "recall", "found"):
        raise InvalidInput(f"aim is {aim!r}: it must be 'f1', 'recall' or 'found'")
    if not answerable:
        raise InvalidInput("no labelled question has a relevant document: label at least two questions")
    if len(answerable) < 2:
        raise InvalidInput("one question is not enough to choose a threshold: label at least 2, better 50")
    if len(steps) == 0 or not np.isfinite(steps).all() or (np.diff(steps) <= 0).any():
        raise InvalidInput("the grid must contain finite thresholds in ascending order")
    check_scores(retriever)
    unknown = await check_known(retriever, answerable)
    return sweep(await fetch(retriever, answerable, progress=progress), steps, aim, unknown)


def sweep(fetched: Sequence[Fetched], steps: Table, aim: Aim, unknown: tuple[str, ...] = ()) -> Sweep:
    """Compute a sweep from fetched scores, without any query."""
    table = np.stack([_measure(one, one.scores, steps) for one in fetched])
    shares = np.linspace(0.0, 1.0, 101)
    relative = np.stack([_measure(one, _relative(one.scores), shares) for one in fetched])
    means = table.mean(axis=0)
    best = recommend(means, steps, aim)
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
        recommended_relative=recommend(relative.mean(axis=0), shares, _relative_aim(aim)),
        right=tuple(map(int, counts[0])),
        wrong=tuple(map(int, counts[1])),
        bins=tuple(map(float, edges)),
        tags=_tags(fetched, table, steps, aim, best),
        questions=len(fetched),
        unknown=unknown,
    )


def _relative_aim(aim: Aim) -> Aim:
    """Return the aim of a relative threshold. Such a threshold never drops all passages, so "found" would always recommend 1."""
    return "recall" if aim == "found" else aim


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
    """Divide scores by the best one, so that a share of 0 keeps all. If the best score is not positive, all become 1."""
    if not len(scores) or scores[0] <= 0:
        return np.ones_like(scores)
    return np.asarray(np.maximum(scores / scores[0], 0), dtype=np.float32)


def _range(fetched: Sequence[Fetched]) -> tuple[float, float]:
    scores = np.concatenate([one.scores for one in fetched])
    if not len(scores):
        return 0.0, 1.0
    low, high = float(scores.min()), float(scores.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _rows(steps: Table, means: Table) -> Rows:
    return tuple(tuple(map(float, (step, *row))) for step, row in zip(steps, means, strict=True))


def _interval(table: Table, steps: Table, aim: Aim, best: float) -> tuple[float, float]:
    """Return the interval by the bootstrap over questions (Efron 1979). It is widened by √2, because another sample varies as much as this one."""
    rng = np.random.default_rng(0)
    count = len(table)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=ROUNDS) / count
    drawn = (weights @ table.reshape(count, -1)).reshape(ROUNDS, *table.shape[1:])
    found = np.array([recommend(means, steps, aim) for means in drawn])
    # Use the larger deviation on both sides, because the draws have few different values, and a shorter side is only chance. Half a step is added for the
    # rounding to the grid.
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
        rows.append((tag, len(part), precision, recall, f1, nothing, recommend(means, steps, aim)))
    return tuple(rows)

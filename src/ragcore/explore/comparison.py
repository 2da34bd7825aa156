"""Compares two results of the same questions, pair by pair.

Sources: Smucker, Allan, Carterette, "A comparison of statistical significance tests for information retrieval evaluation", CIKM 2007 (the paired
randomisation test); `intervals.of_mean` for the intervals of mean differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, overload

import numpy as np

from ragcore.errors import InvalidInput
from ragcore.explore.evaluation import Evaluation
from ragcore.explore.intervals import of_mean
from ragcore.explore.judgements import LOWER_IS_BETTER, MEASURES, UNBOUNDED, Answers
from ragcore.explore.results import Result, axes, caution
from ragcore.loadtest.figures import Chart, Line

__all__ = ["AnswersComparison", "Comparison", "compare"]

ROUNDS = 10_000


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
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference, by pairs of the same question."""
        return of_mean([row["change"] for row in self.to_dicts()], least=-1.0, most=1.0)

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

    def _charts(self) -> list[Chart]:
        changes = sorted(float(row["change"]) for row in self.to_dicts())
        line = Line("change", range(len(changes)), changes)
        return [Chart("Change of each question", "questions, sorted", f"nDCG@{self.a.k}", [line], points=True)]

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"Comparison(nDCG@{self.a.k} {self.difference:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, p = {self.p_value:.3f}, "
            f"{len(self.a.questions)} questions: {len(self.better)} better, {len(self.worse)} worse{caution(len(self.a.questions))})"
        )

    def _state(self) -> dict[str, Any]:
        return {"a": self.a._state(), "b": self.b._state(), "difference": self.difference, "p_value": self.p_value}

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        return cls(
            Evaluation._restored(state["a"]), Evaluation._restored(state["b"]), state["difference"], state["p_value"]
        )


@dataclass(frozen=True, slots=True)
class AnswersComparison(Result):
    """Two runs of `answers` over the same questions."""

    a: Answers
    b: Answers

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each measure that both runs have.

        "questions" is the number of pairs in which both runs have a value; the means, the difference and its 95 % interval are those of these pairs.
        "clear" is True if the interval does not contain 0.
        """
        rows = []
        for measure in MEASURES:
            pairs = [
                (one, other)
                for one, other in zip(self.a.values(measure), self.b.values(measure), strict=True)
                if one is not None and other is not None
            ]
            if not pairs:
                continue
            changes = [other - one for one, other in pairs]
            least, most = (None, None) if measure in UNBOUNDED else (-1.0, 1.0)
            low, high = of_mean(changes, least=least, most=most)
            gain = -1 if measure in LOWER_IS_BETTER else 1
            rows.append(
                {
                    "measure": measure,
                    "questions": len(pairs),
                    "a": float(np.mean([one for one, _ in pairs])),
                    "b": float(np.mean([other for _, other in pairs])),
                    "difference": float(np.mean(changes)),
                    "low": low,
                    "high": high,
                    "better": sum(gain * change > 0 for change in changes),
                    "worse": sum(gain * change < 0 for change in changes),
                    "clear": low > 0 or high < 0,
                }
            )
        return rows

    @property
    def notes(self) -> tuple[str, ...]:
        """How to read several intervals at once."""
        return (
            "Each interval holds for its own measure in 95 % of comparisons. With twenty measures, one is expected to be clear by chance alone.",
        )

    def _charts(self) -> list[Chart]:
        rows = [row for row in self.to_dicts() if row["measure"] not in UNBOUNDED]
        both = [(row["low"], row["high"]) for row in rows]
        line = Line("difference", range(len(rows)), [row["difference"] for row in rows], both)
        names = [str(row["measure"]).replace("_", " ") for row in rows]
        return [Chart("Differences with 95 % intervals", "", "b minus a", [line], ticks=names)] if rows else []

    def __repr__(self) -> str:
        clear = [f"{row['measure']} {row['difference']:+.3f}" for row in self.to_dicts() if row["clear"]]
        count = len(self.a.questions)
        return f"AnswersComparison({count} questions; clear differences: {', '.join(clear) or 'none'}{caution(count)})"

    def _state(self) -> dict[str, Any]:
        return {"a": self.a._state(), "b": self.b._state()}

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        return cls(Answers._restored(state["a"]), Answers._restored(state["b"]))


@overload
def compare(a: Evaluation, b: Evaluation, /) -> Comparison: ...
@overload
def compare(a: Answers, b: Answers, /) -> AnswersComparison: ...
def compare(a: Evaluation | Answers, b: Evaluation | Answers, /) -> Comparison | AnswersComparison:
    """Compare two results of the same questions, pair by pair.

    For two evaluations, the result says whether their nDCG differs, by a two-sided paired randomisation test and an interval. For two runs of `answers`, it
    has the difference of each measure with its interval.

    Raises:
        InvalidInput: the results have different questions or a different k, or are of different kinds.
    """
    if _asked(a) != _asked(b):
        raise InvalidInput("the two results must have the same questions, in the same order")
    if isinstance(a, Answers) and isinstance(b, Answers):
        return AnswersComparison(a, b)
    if not isinstance(a, Evaluation) or not isinstance(b, Evaluation) or a.k != b.k:
        raise InvalidInput("the two results must be of the same kind, and two evaluations must have the same k")
    changes = np.array([other.ndcg - one.ndcg for one, other in zip(a.questions, b.questions, strict=True)])
    observed = float(changes.mean())
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(ROUNDS, len(changes)))
    extreme = np.count_nonzero(np.abs((signs * changes).mean(axis=1)) >= abs(observed) - 1e-12)
    return Comparison(a, b, observed, float((extreme + 1) / (ROUNDS + 1)))


def _asked(result: Evaluation | Answers) -> Sequence[str]:
    return [one.question for one in result.questions]

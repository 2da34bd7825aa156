"""The judged answers of a run, and their measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from ragcore.errors import InvalidInput
from ragcore.explore.intervals import of_mean, of_share
from ragcore.explore.judging import Agreement, agreement
from ragcore.explore.labels import rows_of
from ragcore.explore.results import Result, axes, caution, percent
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.figures import Chart, Line

__all__ = ["LOWER_IS_BETTER", "MEASURES", "UNBOUNDED", "Answers", "JudgedAnswer"]

UNBOUNDED = ("seconds", "prompt_tokens", "completion_tokens", "cost")
MEASURES = (
    "answered",
    "false_answers",
    "contains_gold",
    "token_f1",
    "grounded",
    "figures_grounded",
    "names_grounded",
    "cited",
    "citation_precision",
    "citation_recall",
    "judged_right",
    "degraded",
    "failed",
    *UNBOUNDED,
)
LOWER_IS_BETTER = ("false_answers", "degraded", "failed", *UNBOUNDED)


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """One question, its answer, and the judgements. A judgement that does not apply is None.

    Attributes:
        question, tenant, tags, unanswerable: those of the label.
        text: the answer; "" if the call failed.
        found: `Answer.found`.
        model: the model that wrote the answer.
        error: the error's type and message if the call failed, else "".
        degraded: the stages that failed and their fallbacks, such as "generate: extractive".
        figures, names: the numbers of figures and names in the answer that the question does not contain.
        ungrounded: the figures and names that no cited passage contains.
        grounded, figures_grounded, names_grounded: the shares of figures and names that a cited passage contains; None for answers without any.
        contains_gold, token_f1: whether the answer contains `Labelled.answer`, and the F1 of their words. 0 if nothing was found or the call failed.
        citations: the number of different passages that the answer cites.
        citation_precision: the share of the cited passages that are labelled as relevant; None without citations.
        citation_recall: the share of the labelled documents that the answer cites. 0 if nothing was found or the call failed.
        judged_right: the verdict of the judge.
        judge_error: why there is no verdict although there is a judge.
        seconds: how long the call took.
        prompt_tokens, completion_tokens: as the model reports them.
        cost: the price of these tokens by `Settings.prices`; None if the model has no price.
    """

    question: str
    tenant: str
    tags: tuple[str, ...]
    unanswerable: bool
    text: str
    found: bool
    model: str
    error: str
    degraded: tuple[str, ...]
    figures: int
    names: int
    ungrounded: tuple[str, ...]
    grounded: float | None
    figures_grounded: float | None
    names_grounded: float | None
    contains_gold: float | None
    token_f1: float | None
    citations: int
    citation_precision: float | None
    citation_recall: float | None
    judged_right: bool | None
    judge_error: str
    seconds: float
    prompt_tokens: int | None
    completion_tokens: int | None
    cost: float | None

    def value(self, measure: str) -> float | None:
        """Return a measure of this answer; None if it does not apply."""
        match measure:
            case "answered":
                return None if self.unanswerable else float(self.found and not self.error)
            case "false_answers":
                return float(self.found) if self.unanswerable and not self.error else None
            case "cited":
                return float(self.citations > 0) if self.found and not self.error else None
            case "degraded":
                return None if self.error else float(bool(self.degraded))
            case "failed":
                return float(bool(self.error))
        value = getattr(self, measure)
        return None if value is None else float(value)

    @property
    def right_by_label(self) -> bool | None:
        """Whether the answer is right by its label, that is, contains the gold answer. An answer to an unanswerable question is wrong. None: unknown."""
        if self.error or not self.found:
            return None
        if self.unanswerable:
            return False
        return None if self.contains_gold is None else self.contains_gold == 1.0


@dataclass(frozen=True, slots=True)
class Answers(Result):
    """The judged answers of one run.

    The measures are means over the questions to which they apply:

    - "answered": answerable questions with an answer. A failed call counts as not answered.
    - "false_answers": unanswerable questions that got an answer.
    - "contains_gold", "token_f1": questions with a gold answer.
    - "grounded", "figures_grounded", "names_grounded", "cited", "citation_precision", "citation_recall", "judged_right", "seconds", "prompt_tokens",
      "completion_tokens", "cost": as in `JudgedAnswer`.
    - "degraded": answers that a fallback wrote or whose search was incomplete. "failed": calls that raised an error.
    """

    questions: tuple[JudgedAnswer, ...]

    def values(self, measure: str) -> list[float | None]:
        """Return a measure of each question; None where it does not apply.

        Raises:
            InvalidInput: there is no such measure.
        """
        if measure not in MEASURES:
            raise InvalidInput(f"there is no measure {measure!r}: choose one of {', '.join(MEASURES)}")
        return [one.value(measure) for one in self.questions]

    def mean(self, measure: str) -> float | None:
        """Return the mean of a measure; None if it applies to no question."""
        known = [value for value in self.values(measure) if value is not None]
        return float(np.mean(known)) if known else None

    def interval(self, measure: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a mean, by `intervals.of_mean`; None if the measure applies to no question."""
        known = [value for value in self.values(measure) if value is not None]
        least, most = (0.0, None) if measure in UNBOUNDED else (0.0, 1.0)
        return of_mean(known, least=None if most is None else least, most=most) if known else None

    def measures_to_dicts(self) -> list[dict[str, Any]]:
        """A row for each measure that applies: the number of questions, the mean and its 95 % interval."""
        rows = []
        for measure in MEASURES:
            mean, both = self.mean(measure), self.interval(measure)
            if mean is not None and both is not None:
                count = sum(value is not None for value in self.values(measure))
                rows.append({"measure": measure, "questions": count, "mean": mean, "low": both[0], "high": both[1]})
        return rows

    def tags_to_dicts(self) -> list[dict[str, Any]]:
        """A row for each tag, with the means of its questions."""
        shown = [row["measure"] for row in self.measures_to_dicts()]
        rows = []
        for tag in sorted({tag for one in self.questions for tag in one.tags}):
            part = Answers(tuple(one for one in self.questions if tag in one.tags))
            rows.append(
                {"tag": tag, "questions": len(part.questions), **{measure: part.mean(measure) for measure in shown}}
            )
        return rows

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each question."""
        return [asdict(one) for one in self.questions]

    def agreement(self, human: object = None, /) -> Agreement:
        """Compare the verdicts of the judge with labels.

        Args:
            human: verdicts of people on the answers of this run: a mapping from question to True or False, or rows with "question" and "right" as a .csv
                or .jsonl file, a frame or mappings. None: an answer is right if it contains `Labelled.answer`, and wrong if the question is
                unanswerable; other answers are left out.
        """
        known = self._by_label() if human is None else _verdicts(human)
        return agreement(
            (one.judged_right, known[one.question])
            for one in self.questions
            if one.judged_right is not None and one.question in known
        )

    def _by_label(self) -> dict[str, bool]:
        return {one.question: one.right_by_label for one in self.questions if one.right_by_label is not None}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about failed and degraded calls, questions without an answer, and the judge's agreement with the labels."""
        notes = []
        failed = [one.error for one in self.questions if one.error]
        if failed:
            kinds = Counter(error.partition(":")[0] for error in failed)
            listed = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
            notes.append(
                f"{len(failed):,} of {len(self.questions):,} calls failed ({listed}) and count as not answered. The first: {failed[0][:300]}"
            )
        answerable = [one for one in self.questions if not one.unanswerable]
        if answerable:
            lost = sum(not one.found or bool(one.error) for one in answerable)
            low, high = of_share(lost, len(answerable))
            notes.append(
                f"No answer to {percent(lost / len(answerable), len(answerable), 'answerable questions')}, 95 % interval {100 * low:.0f} to {100 * high:.0f} %."
            )
        others = [one for one in self.questions if one.unanswerable and not one.error]
        if others:
            wrong = sum(one.found for one in others)
            low, high = of_share(wrong, len(others))
            notes.append(
                f"An answer to {percent(wrong / len(others), len(others), 'unanswerable questions')}, 95 % interval {100 * low:.0f} to {100 * high:.0f} %."
            )
        degraded = Counter(reason for one in self.questions for reason in one.degraded)
        if degraded:
            count = sum(bool(one.degraded) for one in self.questions)
            listed = ", ".join(f"{reason} ({count:,})" for reason, count in degraded.most_common())
            notes.append(f"{count:,} answers are degraded and say little about the model: {listed}.")
        seconds = [one.seconds for one in self.questions if not one.error]
        if seconds:
            notes.append(
                f"Seconds for each answer: median {percentile(seconds, 0.5):.2f}, 95th percentile {percentile(seconds, 0.95):.2f}, largest {max(seconds):.2f}."
            )
        judged = [one for one in self.questions if one.judged_right is not None or one.judge_error]
        if judged:
            silent = sum(bool(one.judge_error) for one in judged)
            without = f" It gave no verdict on {silent:,} of {len(judged):,} answers." * bool(silent)
            notes.append(f"The judge and the labels: {self.agreement()!r}.{without}")
        return tuple(notes)

    def plot(self) -> Any:
        """Plot the means with their intervals. Returns matplotlib axes. Extra `notebook`."""
        plot = axes()
        rows = [row for row in self.measures_to_dicts() if row["measure"] not in UNBOUNDED][::-1]
        means = np.array([row["mean"] for row in rows])
        ends = np.array([[row["low"], row["high"]] for row in rows]).T
        names = [str(row["measure"]).replace("_", " ") for row in rows]
        plot.errorbar(means, names, xerr=np.abs(ends - means), fmt="o", color="black", capsize=3)
        plot.set_xlim(-0.02, 1.02)
        plot.set_xlabel(f"mean with 95 % interval, {len(self.questions):,} questions")
        return plot

    def _charts(self) -> list[Chart]:
        rows = [row for row in self.measures_to_dicts() if row["measure"] not in UNBOUNDED]
        line = Line(
            "mean", range(len(rows)), [row["mean"] for row in rows], [(row["low"], row["high"]) for row in rows]
        )
        names = [str(row["measure"]).replace("_", " ") for row in rows]
        seconds = sorted(one.seconds for one in self.questions)
        ranks = [100 * (place + 1) / len(seconds) for place in range(len(seconds))]
        return [
            Chart("Means with 95 % intervals", "", "mean", [line], ticks=names),
            Chart("Seconds for each answer", "seconds", "% of the questions", [Line("all questions", seconds, ranks)]),
        ]

    def _tables(self) -> list[tuple[str, list[dict[str, Any]]]]:
        return [
            ("Measures", self.measures_to_dicts()),
            ("Tags", self.tags_to_dicts()),
            (
                "Figures and names that no cited passage contains",
                _brief(self.questions, lambda one: bool(one.ungrounded)),
            ),
            ("Questions without an answer", _brief(self.questions, lambda one: not one.unanswerable and not one.found)),
            ("All questions", self.to_dicts()),
        ]

    def _shown(self) -> list[dict[str, Any]]:
        return self.measures_to_dicts()

    def __repr__(self) -> str:
        chosen = ("answered", "false_answers", "contains_gold", "grounded", "citation_precision", "citation_recall")
        shown = [f"{m.replace('_', ' ')} {mean:.3f}" for m in chosen if (mean := self.mean(m)) is not None]
        for measure in ("failed", "degraded"):
            count = sum(value or 0 for value in self.values(measure))
            shown += [f"{count:.0f} {measure}"] * bool(count)
        return f"Answers({len(self.questions):,} questions: {', '.join(shown)}{caution(len(self.questions))})"

    def _state(self) -> dict[str, Any]:
        return {"questions": self.to_dicts()}

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        rows: list[dict[str, Any]] = [
            {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
            for row in state["questions"]
        ]
        return cls(tuple(JudgedAnswer(**row) for row in rows))


def _verdicts(human: object) -> dict[str, bool]:
    """Read verdicts of people: a mapping, or rows with "question" and "right"."""
    if isinstance(human, Mapping):
        return {str(question): bool(right) for question, right in human.items()}
    found = {}
    for number, row in enumerate(rows_of(human), start=1):
        if not isinstance(row, Mapping) or "question" not in row or "right" not in row:
            raise InvalidInput(f'row {number} of the verdicts must have "question" and "right"')
        word = str("" if row["right"] is None else row["right"]).strip().lower()
        if word in ("1", "1.0", "true", "yes", "x", "right"):
            found[str(row["question"])] = True
        elif word in ("0", "0.0", "false", "no", "wrong"):
            found[str(row["question"])] = False
        elif word:
            raise InvalidInput(f"row {number} of the verdicts: right is {row['right']!r}: write 1 or 0")
    return found


def _brief(questions: Sequence[JudgedAnswer], wanted: Any) -> list[dict[str, Any]]:
    return [
        {"question": one.question, "answer": one.text[:300], "ungrounded": one.ungrounded, "error": one.error[:200]}
        for one in questions
        if wanted(one)
    ]

"""What a call found: the quality of its search and its answer, as figures for the event `call.finished`."""

from __future__ import annotations

from typing import Any

from ragcore.types import Answer, Degradation, Retrieval, Timings

__all__ = ["Findings"]

# The stages that `Timings` measures.
STAGES = ("rewrite", "embed", "search", "rerank", "generate")


class Findings:
    """The figures of one call.

    Attributes:
        degradations: the stages that failed, each with its fallback.
        found: whether the documents answer the question; None before the search.
        top_score: the best cosine similarity of a chunk; None if unknown.
        finish_reason: why the model stopped; None before an answer.
    """

    __slots__ = ("degradations", "finish_reason", "found", "top_score")

    degradations: tuple[Degradation, ...]
    found: bool | None
    top_score: float | None
    finish_reason: str | None

    def __init__(self) -> None:
        self.degradations = ()
        self.found = None
        self.top_score = None
        self.finish_reason = None

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that failed and were replaced, each once."""
        return tuple(dict.fromkeys(part.stage for part in self.degradations))

    @property
    def degraded(self) -> bool:
        """Whether a stage failed and a fallback was used instead."""
        return bool(self.degradations)

    def searched(self, retrieval: Retrieval) -> None:
        """Record the result of a search. If it is empty, its best score is that of the best chunk below the threshold."""
        self.degradations = retrieval.degraded
        self.found = bool(retrieval.passages)
        scores = [passage.score for passage in retrieval.passages if passage.score is not None]
        below = None if retrieval.empty is None else retrieval.empty.best_score
        self.top_score = max(scores, default=below)

    def answered(self, answer: Answer) -> None:
        """Record the quality of an answer."""
        self.degradations = answer.degraded
        self.found = answer.found
        self.finish_reason = answer.finish_reason

    def figures(self, timings: Timings) -> dict[str, Any]:
        """Return the data of the event: numbers and short words, never a text."""
        seconds = timings.to_dict()
        return {
            "stages": {stage: seconds[stage] for stage in STAGES if seconds[stage] is not None},
            "first_token": timings.first_token,
            "degraded": {part.stage: part.error for part in self.degradations},
            "found": self.found,
            "top_score": self.top_score,
            "finish_reason": self.finish_reason,
        }

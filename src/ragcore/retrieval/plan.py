"""Plan a search: choose and check its options before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from ragcore.errors import InvalidInput
from ragcore.filters import Filter
from ragcore.protocols import Embedder, Found, Query, Vector
from ragcore.retrieval.options import SearchOptions
from ragcore.types import Degradation, EmptyReason, Mode, Retrieval, Timings, Usage
from ragcore.types.validation import (
    check_mode,
    check_question,
    check_relative_threshold,
    check_tenant,
    check_threshold,
    check_top_k,
)

__all__ = ["Plan", "plan_search"]


class Defaults(Protocol):
    """A retriever's own settings, for options that a call leaves out."""

    embedder: Embedder | None
    top_k: int
    score_threshold: float | None
    relative_threshold: float | None
    mode: Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One search with checked options: the caller's values, and the retriever's own where the caller gives none.

    Attributes:
        score_threshold: the threshold; None if there is none.
        score_threshold_from: "call" or "retriever"; None if there is no threshold.
        relative_threshold: the lowest share of the best score; None if there is none, or in mode "text".
    """

    question: str
    tenant: str
    mode: Mode
    top_k: int
    score_threshold: float | None
    score_threshold_from: Literal["call", "retriever"] | None
    relative_threshold: float | None
    filter: Filter | None

    def query(self, vector: Vector | None) -> Query:
        """Return the query for the store."""
        return Query(
            question=self.question,
            tenant=self.tenant,
            mode=self.mode,
            top_k=self.top_k,
            vector=vector,
            filter=self.filter,
            score_threshold=None if self.mode == "text" else self.score_threshold,
        )

    def retrieval(
        self,
        found: Found,
        *,
        empty: EmptyReason | None,
        degraded: tuple[Degradation, ...],
        timings: Timings,
        usage: Usage,
    ) -> Retrieval:
        """Return the result for the caller."""
        thresholded = self.mode != "text" and self.score_threshold is not None
        return Retrieval(
            self.question,
            query=self.question,
            passages=tuple(found),
            mode=self.mode,
            top_k=self.top_k,
            score_threshold=self.score_threshold if thresholded else None,
            score_threshold_from=self.score_threshold_from if thresholded else None,
            relative_threshold=self.relative_threshold if self.mode != "text" else None,
            empty=empty,
            scan=found.scan,
            degraded=degraded,
            timings=timings,
            usage=usage,
        )


def plan_search(defaults: Defaults, question: str, tenant: str | UUID, options: SearchOptions) -> Plan:
    """Choose the options of a search and check them.

    Raises:
        InvalidInput: the question, the tenant or an option is invalid, or the question exceeds the embedder's token limit.
    """
    top_k, mode, condition = options.get("top_k"), options.get("mode"), options.get("filter")
    wanted = defaults.mode if mode is None else check_mode(mode)
    if wanted != "text" and defaults.embedder is None:
        raise InvalidInput(f"mode {wanted!r} needs an embedder, and this retriever has none: use mode='text'")
    if condition is not None and not isinstance(condition, Filter):
        raise InvalidInput(
            f"filter must be a ragcore.Filter, not {type(condition).__name__}: build it with ragcore.meta(…)"
        )
    threshold, threshold_from = _threshold(defaults, options)
    share = options.get("relative_threshold")
    plan = Plan(
        question=check_question(question),
        tenant=check_tenant(tenant),
        mode=wanted,
        top_k=defaults.top_k if top_k is None else check_top_k(top_k),
        score_threshold=threshold,
        score_threshold_from=threshold_from,
        relative_threshold=defaults.relative_threshold if share is None else check_relative_threshold(share),
        filter=condition,
    )
    if wanted != "text" and defaults.embedder is not None:
        _check_length(plan.question, defaults.embedder)
    return plan


def _threshold(defaults: Defaults, options: SearchOptions) -> tuple[float | None, Literal["call", "retriever"] | None]:
    """Return the threshold and its source. -1, which every score reaches, counts as no threshold."""
    asked = options.get("score_threshold")
    threshold = defaults.score_threshold if asked is None else check_threshold(asked)
    if threshold is None or threshold == -1:
        return None, None
    return threshold, "retriever" if asked is None else "call"


def _check_length(question: str, embedder: Embedder) -> None:
    """Reject a question over the embedder's token limit. A token has at least one byte, so a short question need not be counted."""
    most = embedder.max_tokens
    if len(question.encode()) <= most:
        return
    tokens = embedder.count_tokens(question)
    if tokens > most:
        raise InvalidInput(
            f"the question has {tokens:,} tokens, and {embedder.model} takes at most {most:,}: shorten it, or use mode='text'"
        )

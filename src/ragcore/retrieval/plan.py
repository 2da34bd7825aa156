"""Plan a search: choose and check its options before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from ragcore.errors import InvalidInput
from ragcore.filters import Filter
from ragcore.protocols import Embedder, Found, Query, Vector
from ragcore.retrieval.options import SearchOptions
from ragcore.types import Degradation, EmptyReason, Fusion, Mode, Retrieval, Timings, Usage
from ragcore.types.validation import (
    MAX_TOP_K,
    check_diversity,
    check_mode,
    check_neighbours,
    check_question,
    check_relative_threshold,
    check_shared,
    check_tenant,
    check_threshold,
    check_top_k,
)

__all__ = ["Plan", "plan_search"]

# Diverse passages are chosen from this many times `top_k` candidates, and from at least 20.
DIVERSE, LEAST_DIVERSE = 4, 20


class Defaults(Protocol):
    """A retriever's own settings, for options that a call leaves out."""

    embedder: Embedder | None
    top_k: int
    score_threshold: float | None
    relative_threshold: float | None
    mode: Mode
    fusion: Fusion
    shared: tuple[str, ...]
    diversity: float
    neighbours: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One search with checked options: the caller's values, and the retriever's values for options that the caller leaves out.

    Attributes:
        mode_is_default: whether the mode is the retriever's and not the call's.
        searched: the text to search for; without a `query` in the options, the question.
        score_threshold: the threshold; None if there is none.
        score_threshold_from: "call" or "retriever"; None if there is no threshold.
        relative_threshold: the lowest share of the best score; None if there is none, or in mode "text".
    """

    question: str
    searched: str
    tenant: str
    mode: Mode
    mode_is_default: bool
    top_k: int
    score_threshold: float | None
    score_threshold_from: Literal["call", "retriever"] | None
    relative_threshold: float | None
    filter: Filter | None
    fusion: Fusion
    shared: tuple[str, ...]
    diversity: float
    neighbours: int

    def query(self, vector: Vector | None) -> Query:
        """Return the query for the store. For diversity, it asks for more passages than are wanted, and for their vectors."""
        candidates = min(max(DIVERSE * self.top_k, LEAST_DIVERSE), MAX_TOP_K) if self.diversity else self.top_k
        return Query(
            question=self.searched,
            tenant=self.tenant,
            mode=self.mode,
            top_k=candidates,
            vector=vector,
            filter=self.filter,
            score_threshold=None if self.mode == "text" else self.score_threshold,
            shared=self.shared,
            fusion=self.fusion,
            with_vectors=bool(self.diversity),
        )

    def retrieval(
        self,
        found: Found,
        *,
        empty: EmptyReason | None,
        degraded: tuple[Degradation, ...],
        timings: Timings,
        usage: Usage,
        duplicates: int = 0,
    ) -> Retrieval:
        """Return the result for the caller."""
        thresholded = self.mode != "text" and self.score_threshold is not None
        return Retrieval(
            self.question,
            query=self.searched,
            passages=tuple(found),
            mode=self.mode,
            top_k=self.top_k,
            score_threshold=self.score_threshold if thresholded else None,
            score_threshold_from=self.score_threshold_from if thresholded else None,
            relative_threshold=self.relative_threshold if self.mode != "text" else None,
            empty=empty,
            duplicates=duplicates,
            scan=found.scan,
            degraded=degraded,
            timings=timings,
            usage=usage,
        )


def plan_search(defaults: Defaults, question: str | None, tenant: str | UUID, options: SearchOptions) -> Plan:
    """Choose the options of a search and check them.

    Args:
        question: None: the search has a vector and no question.

    Raises:
        InvalidInput: the question, the tenant or an option is invalid, or the question exceeds the embedder's token limit.
    """
    top_k, mode, condition = options.get("top_k"), options.get("mode"), options.get("filter")
    shared, diversity, neighbours = options.get("shared"), options.get("diversity"), options.get("neighbours")
    wanted = defaults.mode if mode is None else check_mode(mode)
    if wanted != "text" and defaults.embedder is None and question is not None:
        raise InvalidInput(f"mode {wanted!r} needs an embedder, and this retriever has none: use mode='text'")
    if condition is not None and not isinstance(condition, Filter):
        raise InvalidInput(
            f"filter must be a ragcore.Filter, not {type(condition).__name__}: build it with ragcore.meta(…)"
        )
    owner = check_tenant(tenant)
    threshold, threshold_from = _threshold(defaults, options)
    asked, query = "" if question is None else check_question(question), options.get("query")
    share = options.get("relative_threshold")
    plan = Plan(
        question=asked,
        searched=asked if query is None else check_question(query, what="the query"),
        tenant=owner,
        mode=wanted,
        mode_is_default=mode is None,
        top_k=defaults.top_k if top_k is None else check_top_k(top_k),
        score_threshold=threshold,
        score_threshold_from=threshold_from,
        relative_threshold=defaults.relative_threshold if share is None else check_relative_threshold(share),
        filter=condition,
        fusion=defaults.fusion,
        shared=tuple(name for name in (defaults.shared if shared is None else check_shared(shared)) if name != owner),
        diversity=defaults.diversity if diversity is None else check_diversity(diversity),
        neighbours=defaults.neighbours if neighbours is None else check_neighbours(neighbours),
    )
    if wanted != "text" and defaults.embedder is not None and question is not None:
        _check_length(plan.searched, defaults.embedder)
    return plan


def _threshold(defaults: Defaults, options: SearchOptions) -> tuple[float | None, Literal["call", "retriever"] | None]:
    """Return the threshold and its source. No score is below -1, so -1 counts as no threshold."""
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

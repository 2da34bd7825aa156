"""A searcher whose passages a reranker sorts again."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
from numpy.typing import NDArray

from ragcore.compat.ability import offers
from ragcore.errors import (
    ConfigurationError,
    DeadlineExceeded,
    NotOpen,
    RagcoreError,
    RerankingError,
    WrongEventLoop,
)
from ragcore.events import emit
from ragcore.lifecycle.operations import begin
from ragcore.lifecycle.part import Part, Parts
from ragcore.lifecycle.stages import Stopwatch
from ragcore.protocols import Described, Found, Query, Reranker, Searcher
from ragcore.resilience import Policy
from ragcore.resilience.deadline import deadline, share
from ragcore.resilience.flow import flow
from ragcore.resilience.patience import Patience
from ragcore.resilience.policy import policy_of
from ragcore.text.redacting import Redacting
from ragcore.text.redaction import Redacted
from ragcore.types import Degradation, Passage
from ragcore.types.validation import MAX_TOP_K

__all__ = ["RerankedSearcher"]

# The reranker gets a share of the remaining time, and the model that writes the answer gets the rest. RERANK_SHARE, at most MOST_RERANK_SECONDS, does not
# include the wait for a place. RERANK_AND_WAIT_SHARE includes it.
RERANK_SHARE = 0.3
MOST_RERANK_SECONDS = 10.0
RERANK_AND_WAIT_SHARE = 0.5
FALLBACK = "order of the search"
# After this many redacted texts, other tasks run.
REDACTED_AT_ONCE = 8
# These errors are mistakes in the program or in its settings. Skipping the reranker would hide them.
MISTAKES = (ConfigurationError, NotOpen, WrongEventLoop)


class RerankedSearcher(Part):
    """Wraps a searcher or a store, and lets a reranker sort what it finds.

    A search takes `candidates` passages from the searcher, computes the relevance of each, and returns the best `top_k`. Tenant, mode, filter and
    threshold apply in the searcher, as without a reranker: the threshold is a cosine similarity, not a relevance.

    The reranker can only improve the order, so a search does not fail because of it. If it fails, is overloaded or does not answer within 30 % of the
    remaining time (at most 10 s), the passages keep the order of the search, and `Retrieval.degraded` has the reason. With `degrade=False` the search
    raises the error.

    Everything else that the wrapped store can do, such as adding documents and health checks, works as before: other attributes are those of the store.

    Args:
        searcher: the searcher or store to wrap. Started and closed with this object, like the reranker, unless it is already open.
        reranker: computes the relevance. It gets the title and the text of each passage, redacted with the retriever's `redact`.
        candidates: number of passages to rerank, 2 to 1,000. If a call's `top_k` is larger, `top_k` passages are reranked.
        policy: rules for each call of a reranker that has no attribute `policy`. None: one attempt of at most 10 s, 64 calls at once, a circuit breaker
            that counts every error.

    Raises:
        ConfigurationError: `candidates` is out of range, or both `policy` and the reranker's own policy are given.

    Examples:
        ```python
        reranker = ragcore.HTTPReranker("rerank-v3.5", api="cohere", api_key=key)
        retriever = ragcore.Retriever(store=ragcore.RerankedSearcher(store, reranker), embedder=embedder)
        ```
    """

    candidates: int
    rerank_policy: Policy

    def __init__(
        self, searcher: Searcher, reranker: Reranker, /, *, candidates: int = 50, policy: Policy | None = None
    ) -> None:
        if not (isinstance(candidates, int) and 2 <= candidates <= MAX_TOP_K):
            raise ConfigurationError(f"candidates is {candidates!r}: it must be a whole number from 2 to {MAX_TOP_K:,}")
        own = policy_of(reranker)
        if own is not None and policy is not None:
            raise ConfigurationError(f"{type(reranker).__name__} has its own policy: pass the policy there, not here")
        self.searcher = searcher
        self.reranker = reranker
        self.candidates = candidates
        # The name is not `policy`, because `__getattr__` returns the store's `policy`.
        self.rerank_policy = own or policy or Policy("reranking", retry=False)
        self._calls_in_policy = own is None
        self._redacting = Redacting()
        self._parts = Parts()

    def __getattr__(self, name: str) -> Any:
        """Return other attributes of the wrapped store, such as `upsert` and `ping`."""
        if name.startswith("_") or name in ("searcher", "reranker"):
            raise AttributeError(name)
        return getattr(self.searcher, name)

    async def search(self, query: Query, /) -> Sequence[Passage]:
        """Return the best `query.top_k` of the searcher's passages, most relevant first, with their `rerank_score`.

        Raises:
            RerankingError, CircuitOpen, Overloaded: the reranker failed, and `query.degrade` is False.
        """
        self._check_open()
        if not query.rerank:
            return await self.searcher.search(query)
        found = await self.searcher.search(replace(query, top_k=max(self.candidates, query.top_k)))
        if not isinstance(found, Sequence) or not all(isinstance(passage, Passage) for passage in found):
            return found  # the retriever reports it
        if len(found) < 2:
            return found
        with Stopwatch().measure("rerank"), flow(query.tenant):
            try:
                with begin("rerank", component=self.reranker, candidates=len(found)):
                    scores = await (self._scores_in_time(query, found) if query.degrade else self._scores(query, found))
            except MISTAKES:
                raise
            except RagcoreError as error:
                if not query.degrade:
                    raise
                emit("retriever.degraded", "rerank", error=type(error).__name__)
                kept = range(min(query.top_k, len(found)))
                skipped = Degradation("rerank", str(error), FALLBACK, error=type(error).__name__)
                return _copied(found, found[: query.top_k], kept, skipped)
        # Sorting is stable: passages of equal relevance keep the order of the search.
        order = sorted(range(len(found)), key=lambda number: -scores[number])[: query.top_k]
        best = [replace(found[number], rerank_score=float(scores[number])) for number in order]
        return _copied(found, best, order)

    def describe(self) -> Mapping[str, Any]:
        """Return the store's description, with the reranker's model and the number of candidates."""
        inner = self.searcher.describe() if offers(self.searcher, Described) else {}
        return {
            **inner,
            "searcher": type(self.searcher).__name__,
            "reranker": self.reranker.model,
            "candidates": self.candidates,
        }

    async def _open(self) -> None:
        for part in (self.searcher, self.reranker):
            await self._parts.start(part)

    async def _close(self) -> None:
        await self._parts.aclose()

    async def _scores_in_time(self, query: Query, passages: Sequence[Passage]) -> NDArray[np.float64]:
        """Return the scores within a share of the remaining time: a reranker that never responds must leave time for the answer."""
        name = self.reranker.model
        limit, whole = share(RERANK_SHARE, most=MOST_RERANK_SECONDS), share(RERANK_AND_WAIT_SHARE, most=math.inf)
        if min(limit, whole) <= 0:
            raise RerankingError(f"no time was left for the reranker {name}", dependency=name, stage="rerank")
        patience = Patience(limit)
        try:
            with deadline(whole):
                # The redaction runs outside of the reranker's time limit, because slow redaction must not count as a failure of the reranker.
                question, texts = await self._texts(query, passages)
                with patience:
                    return await self._ask(question, texts)
        except DeadlineExceeded as error:
            waited = f", after {patience.waited:.1f} s of waiting for a place" if patience.waited else ""
            raise RerankingError(
                f"reranking by {name} was not finished in time{waited}: {error}", dependency=name, stage="rerank"
            ) from error
        raise RerankingError(
            f"the reranker {name} did not answer within {limit:.1f} s", dependency=name, stage="rerank"
        )

    async def _scores(self, query: Query, passages: Sequence[Passage]) -> NDArray[np.float64]:
        return await self._ask(*await self._texts(query, passages))

    async def _ask(self, question: str, texts: Sequence[str]) -> NDArray[np.float64]:
        name = self.reranker.model

        async def attempt() -> NDArray[np.float64]:
            return _checked(await self.reranker.rerank(question, texts), len(texts), name)

        try:
            if self._calls_in_policy:
                return await self.rerank_policy.call(attempt, on=Exception)
            return await attempt()
        except RagcoreError as error:
            error.stage = error.stage or "rerank"
            raise
        except TimeoutError as error:
            raise RerankingError(
                f"the reranker {name} did not answer in time", dependency=name, stage="rerank"
            ) from error
        except Exception as error:
            raise RerankingError(
                f"the reranker {name} raised {type(error).__name__}", dependency=name, stage="rerank"
            ) from error

    async def _texts(self, query: Query, passages: Sequence[Passage]) -> tuple[str, list[str]]:
        """Return the question and the texts of the passages as they may leave the process. A title stands before its text."""
        texts = [_with_title(passage) for passage in passages]
        redact = query.redact
        if redact is None:
            return query.question, texts
        # One object redacts all texts, so that a reversible redaction gives a value the same placeholder in the question and in the passages.
        hiding = Redacted(redact, [query.question, *texts])
        hidden: list[str] = []
        for start in range(0, len(texts) + 1, REDACTED_AT_ONCE):
            some = [query.question, *texts][start : start + REDACTED_AT_ONCE]
            hidden += await self._redacting.run(redact, lambda some=some: [hiding.redact(text) for text in some])  # type: ignore[misc]  # bound now
            await anyio.lowlevel.checkpoint()
        return hidden[0], hidden[1:]


def _with_title(passage: Passage) -> str:
    """Return the text to rank: a chunk often names its subject only in the title."""
    title = passage.title.strip()
    return passage.text if not title or title in passage.text[: 2 * len(title)] else f"{title}\n\n{passage.text}"


def _copied(
    found: Sequence[Passage], passages: Sequence[Passage], order: Sequence[int], *degraded: Degradation
) -> Found:
    """Return other passages with the facts of a search. `order` has the number that each passage had in `found`."""
    made = copy.copy(found) if isinstance(found, Found) else Found()
    made[:] = passages
    if made.vectors is not None:
        made.vectors = [made.vectors[number] for number in order]
    made.degraded = (*made.degraded, *degraded)
    return made


def _checked(scores: object, count: int, name: str) -> NDArray[np.float64]:
    """Return the scores of a reranker, since a user's own may return anything: one finite number for each text."""
    problem = ""
    try:
        made = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        made, problem = np.zeros(0), f"{type(scores).__name__}, not numbers"
    if not problem and made.shape != (count,):
        problem = f"scores of shape {made.shape} for {count} texts"
    if not problem and not np.isfinite(made).all():
        problem = "a score that is not a finite number"
    if problem:
        raise RerankingError(f"the reranker {name} returned {problem}", dependency=name, stage="rerank")
    return made

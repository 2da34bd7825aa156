"""Question in, passages out."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Literal, Unpack
from uuid import UUID

import anyio
import numpy as np

from ragcore.compat.ability import offers
from ragcore.embedding.vectors import check_vectors
from ragcore.errors import (
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    EmbeddingError,
    Overloaded,
    RagcoreError,
    StoreError,
    Unsupported,
)
from ragcore.events import emit
from ragcore.lifecycle.part import Part, Parts
from ragcore.lifecycle.stages import Stopwatch
from ragcore.protocols import Embedder, Found, Looking, Query, Searcher, Store, Vector
from ragcore.resilience.deadline import deadline, share
from ragcore.resilience.flow import flow
from ragcore.resilience.patience import Patience
from ragcore.retrieval.emptiness import explain_empty
from ragcore.retrieval.options import SearchOptions, SimilarityOptions, check_options, spelled_out
from ragcore.retrieval.plan import Plan, plan_search
from ragcore.retrieval.similarity import report_similarity
from ragcore.text.redacting import Redacting
from ragcore.text.redaction import Redact
from ragcore.types import Degradation, Mode, Passage, Retrieval, SimilarityReport, Usage
from ragcore.types.validation import check_mode, check_threshold, check_top_k

__all__ = ["Retriever"]

logger: logging.Logger = logging.getLogger("ragcore.retriever")

# Of the time that is left, what the embedder may take where text search can answer in its place, and what it may take with the wait for a place.
EMBED_SHARE = 0.4
MOST_EMBED_SECONDS = 10.0
EMBED_AND_WAIT_SHARE = 0.7
# Seconds: who spent all but so much of its time in a queue of ours was not asked for.
NOT_ASKED = 0.01
# A similarity report is of so many scores, and with a filter of so many: a tenant may have millions of chunks.
MOST_SCORES = 10_000
MOST_FILTERED = 1_000


class Retriever(Part):
    """Finds the passages for a question: by vector, by text, or by both.

    Args:
        store: where the passages are.
        embedder: the one that the passages were embedded with; None: mode "text" only.
        top_k: passages at most, 1 to 1,000.
        score_threshold: least cosine similarity of what is found by vector, in [-1, 1]; None, False or -1: none. Measure it, don't guess it.
        mode: "vector", "text" or "hybrid".
        redact: what is taken out of a question before it goes to the embedder; text search has it whole. None: nothing.

    Starting it starts the embedder and the store, where they aren't open; closing it closes what it started.
    """

    top_k: int
    score_threshold: float | None

    def __init__(
        self,
        *,
        store: Searcher,
        embedder: Embedder | None = None,
        top_k: int = 5,
        score_threshold: float | Literal[False] | None = None,
        mode: Mode = "vector",
        redact: Redact | None = None,
    ) -> None:
        self.store = store
        self.embedder = embedder
        self.top_k = check_top_k(top_k)
        self.score_threshold = None if score_threshold is None else check_threshold(score_threshold)
        self.mode: Mode = check_mode(mode)
        self.redact = redact
        if embedder is None and mode != "text":
            raise ConfigurationError(f"mode {mode!r} needs an embedder: pass embedder=, or mode='text'")
        self._redacting = Redacting()
        self._parts = Parts()

    @spelled_out(SearchOptions)
    async def retrieve(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[SearchOptions],
    ) -> Retrieval:
        """The passages for a question, best first, with how they were found and, if there are none, why.

        Args:
            question: what to search for.
            tenant: whose documents.
            options: top_k, score_threshold, filter, mode, degrade, as `options.SearchOptions` describes them. A value given here wins over the
                retriever's own.

        Raises:
            InvalidInput: question, tenant, an option or a filter that makes no sense, or a question over the embedder's token limit.
            EmbeddingError, CircuitOpen: the embedder is down and `degrade` is False.
            StoreError: the store failed.
            DeadlineExceeded, Overloaded: no time or no room.
            Unsupported: the store can't do this mode or filter.
        """
        self._check_open()
        check_options(options, SearchOptions, "retrieve")
        plan, degrade = plan_search(self, question, tenant, options), options.get("degrade")
        watch = Stopwatch()
        degraded: tuple[Degradation, ...] = ()
        vector, usage = None, Usage()
        failed: EmbeddingError | CircuitOpen | None = None
        if plan.mode != "text":
            try:
                with watch.measure("embed"), flow(plan.tenant):
                    # Not in the embedder's time: that it was slow is not to be said of an embedder that was never asked.
                    text = await self._redacting.redacted(self.redact, plan.question)
                    vector = await (self._embed(text) if degrade is False else self._embed_in_time(text))
                usage = self._used(question, watch)
            except (EmbeddingError, CircuitOpen) as error:
                if degrade is False:
                    raise
                failed = error
                emit("retriever.degraded", "embed", error=type(error).__name__)
                degraded = (Degradation("embed", str(error), "full text"),)
                plan = replace(plan, mode="text")
        with watch.measure("search"):
            query = replace(plan.query(vector), model=self._model(vector))
            try:
                found = await self._search(query)
            except Unsupported as error:
                if failed is None:
                    raise
                raise failed from error  # the store can't search by text: what is at fault is the embedder
            empty = None if found else await explain_empty(self.store, query, found)
        return plan.retrieval(found, empty=empty, degraded=degraded, timings=watch.timings(), usage=usage)

    @spelled_out(SimilarityOptions)
    async def similarity(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[SimilarityOptions],
    ) -> SimilarityReport:
        """How near the tenant's chunks are to a question; the threshold is judged, not applied.

        Raises:
            Unsupported: the store can't be asked for scores, or there is no embedder.
            EmbeddingError: as `retrieve` with degrade=False.
        """
        self._check_open()
        if not isinstance(self.store, Store) or self.embedder is None:
            raise Unsupported(
                "a similarity report needs an embedder, and a store with scores and count", stage="search"
            )
        check_options(options, SimilarityOptions, "similarity")
        asked: SearchOptions = {
            "score_threshold": options.get("score_threshold"),
            "filter": options.get("filter"),
            "mode": "vector" if self.mode == "text" else None,
        }
        plan = plan_search(self, question, tenant, asked)
        watch = Stopwatch()
        with watch.measure("embed"), flow(plan.tenant):
            vector = await self._embed(await self._redacting.redacted(self.redact, plan.question))
        usage = self._used(question, watch)
        with watch.measure("search"):
            query = replace(plan.query(vector), model=self._model(vector))
            found = await self._search(replace(query, score_threshold=None))
            by_text = await self._search(replace(plan.query(None), mode="text", score_threshold=None))
            async with self._store_errors():
                counts = await self.store.count(tenant=plan.tenant)
                scores = await self._scores(plan, vector)
            empty = None if found else await explain_empty(self.store, query, found)
        found[:] = _with_text_scores(found, by_text)
        retrieval = plan.retrieval(found, empty=empty, degraded=(), timings=watch.timings(), usage=usage)
        return report_similarity(retrieval, scores=scores, counts=counts, score_threshold=plan.score_threshold)

    def _used(self, question: str, watch: Stopwatch) -> Usage:
        """What embedding the question has used, told at once: a search that fails afterwards doesn't undo it."""
        assert self.embedder is not None
        tokens = self.embedder.count_tokens(question)
        watch.embedded(tokens)
        return Usage(embedding_tokens=tokens)

    async def _scores(self, plan: Plan, vector: Vector) -> Vector:
        """The scores of the tenant's 10,000 nearest chunks, best first; with a filter, of the 1,000 nearest that it matches."""
        assert isinstance(self.store, Store)
        if plan.filter is None:
            return (await self.store.scores(vector, tenant=plan.tenant, limit=MOST_SCORES)).scores
        query = replace(plan.query(vector), top_k=MOST_FILTERED, score_threshold=None)
        return np.array([passage.score or 0.0 for passage in await self.store.search(query)], dtype=np.float32)

    async def _open(self) -> None:
        for part in (self.embedder, self.store):
            await self._parts.start(part)
        if offers(self.store, Looking):
            self._check_open().spawn(partial(self._look, self.store), name="looking whether embedder and store fit")

    async def _look(self, store: Looking) -> None:
        """Say early what would otherwise be found out late: vectors of two models don't compare."""
        found = await store.first_look()
        for finding in () if found is None else found.misfits(self.embedder):
            logger.error("%s", finding.message)

    async def _close(self) -> None:
        await self._parts.aclose()

    async def _embed_in_time(self, question: str) -> Vector:
        """The vector, within a share of what is left: an embedder that is a black hole must leave time for text search."""
        limit, whole = share(EMBED_SHARE, most=MOST_EMBED_SECONDS), share(EMBED_AND_WAIT_SHARE, most=math.inf)
        if limit <= 0:
            return await self._embed(question)
        assert self.embedder is not None
        name = self.embedder.model
        patience = Patience(limit)
        until = anyio.current_time() + whole
        try:
            with deadline(whole), patience:
                return await self._embed(question)
        except DeadlineExceeded as error:
            if anyio.current_time() < until - NOT_ASKED:  # one of the embedder's own
                raise EmbeddingError(f"the embedder {name} failed: {error}", dependency=name, stage="embed") from error
            if whole - patience.waited < NOT_ASKED:
                raise Overloaded(
                    f"the embedder {name} is overloaded: no place within {patience.waited:.1f} s",
                    dependency=name,
                    stage="embed",
                    retry_after=1.0,
                ) from error
            raise EmbeddingError(
                f"the embedder {name} did not answer within the {whole - patience.waited:.1f} s that were left after {patience.waited:.1f} s of waiting "
                "for a place",
                dependency=name,
                stage="embed",
            ) from error
        raise EmbeddingError(f"the embedder {name} did not answer within {limit:.1f} s", dependency=name, stage="embed")

    async def _embed(self, text: str) -> Vector:
        embedder = self.embedder
        assert embedder is not None
        try:
            vectors = await embedder.embed([text], kind="query")
        except RagcoreError as error:
            error.stage = error.stage or "embed"
            raise
        except Exception as error:
            raise EmbeddingError(
                f"the embedder {embedder.model} raised {type(error).__name__}", dependency=embedder.model, stage="embed"
            ) from error
        checked = check_vectors(vectors, count=1, dimension=embedder.dimension, model=embedder.model)
        vector: Vector = checked[0]
        return vector

    def _model(self, vector: Vector | None) -> str | None:
        return None if vector is None or self.embedder is None else self.embedder.model

    async def _search(self, query: Query) -> Found:
        async with self._store_errors():
            found = await self.store.search(query)
        passages = _checked(found, query)
        if isinstance(found, Found):
            return Found(passages, best_score=found.best_score, scan=found.scan)
        return Found(passages)

    @asynccontextmanager
    async def _store_errors(self) -> AsyncIterator[None]:
        try:
            yield
        except RagcoreError as error:
            error.stage = error.stage or "search"
            raise
        except Exception as error:
            name = type(self.store).__name__
            raise StoreError(
                f"the store {name} raised {type(error).__name__}", dependency=name, stage="search"
            ) from error


def _checked(passages: Sequence[Passage], query: Query) -> tuple[Passage, ...]:
    """A searcher of the user's is checked too: nothing over top_k, no score that isn't a number."""
    if not isinstance(passages, Sequence):
        raise StoreError(
            f"the store returned {type(passages).__name__}, not passages", dependency="store", stage="search"
        )
    found = tuple(passages)
    for passage in found:
        if not isinstance(passage, Passage):
            raise StoreError(
                f"the store returned {type(passage).__name__}, not a Passage", dependency="store", stage="search"
            )
        if passage.score is not None and not (
            isinstance(passage.score, int | float | np.floating) and math.isfinite(passage.score)
        ):
            raise StoreError(
                f"the store returned the score {passage.score!r} for chunk {passage.chunk_id!r}",
                dependency="store",
                stage="search",
            )
    return found[: query.top_k]


def _with_text_scores(passages: Sequence[Passage], by_text: Sequence[Passage]) -> tuple[Passage, ...]:
    ranks = {passage.chunk_id: passage.text_score for passage in by_text}
    return tuple(replace(passage, text_score=ranks.get(passage.chunk_id)) for passage in passages)

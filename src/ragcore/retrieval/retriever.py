"""The retriever: embeds a question and searches the store for passages."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, Unpack, cast
from uuid import UUID

import anyio
import numpy as np

from ragcore.compat.ability import offers
from ragcore.embedding.vectors import check_vector, check_vectors
from ragcore.errors import (
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    EmbeddingError,
    Overloaded,
    RagcoreError,
    Unsupported,
)
from ragcore.events import emit
from ragcore.lifecycle.operations import begin
from ragcore.lifecycle.part import Part, Parts
from ragcore.lifecycle.stages import Stopwatch
from ragcore.protocols import Embedder, Looking, Searcher, Store, Vector
from ragcore.resilience.deadline import deadline, share
from ragcore.resilience.flow import flow
from ragcore.resilience.patience import Patience
from ragcore.retrieval.emptiness import explain_empty
from ragcore.retrieval.options import SearchOptions, SimilarityOptions, VectorOptions, check_options, spelled_out
from ragcore.retrieval.passage_search import PassageSearch
from ragcore.retrieval.plan import Plan, plan_search
from ragcore.retrieval.relative import near_the_best
from ragcore.retrieval.similarity import report_similarity
from ragcore.text.redacting import Redacting
from ragcore.text.redaction import Redact
from ragcore.types import Degradation, Fusion, Mode, Passage, Retrieval, SimilarityReport, Usage
from ragcore.types.validation import (
    check_diversity,
    check_fusion,
    check_mode,
    check_neighbours,
    check_relative_threshold,
    check_shared,
    check_threshold,
    check_top_k,
)

__all__ = ["Retriever"]

logger: logging.Logger = logging.getLogger("ragcore.retriever")

# If text search can be used instead of the embedder, the embedder gets a share of the remaining time. EMBED_SHARE, at most MOST_EMBED_SECONDS, does not
# include the wait for a place. EMBED_AND_WAIT_SHARE includes it.
EMBED_SHARE = 0.4
MOST_EMBED_SECONDS = 10.0
EMBED_AND_WAIT_SHARE = 0.7
# If at most this many seconds were left after the wait for a place, the embedder was never called.
NOT_ASKED = 0.01
# The largest numbers of scores in a similarity report, without and with a filter, because a tenant may have millions of chunks.
MOST_SCORES = 10_000
MOST_FILTERED = 1_000
# If duplicates take the places of other passages, a second search asks for this many times the number.
REFILL = 4


class Retriever(Part):
    """Finds the passages for a question: by vector, by text, or by both.

    Args:
        store: the store to search.
        embedder: the embedder with which the documents were embedded. None: only mode "text" is possible.
        top_k: largest number of passages, 1 to 1,000.
        score_threshold: lowest cosine similarity of a passage that vector search finds, in [-1, 1]. None, False or -1: no threshold. Choose it with
            `similarity`, not by guessing.
        mode: "vector", "text" or "hybrid", which uses both. None: "hybrid" with an embedder, "vector" if the store does not support hybrid search,
            and "text" without an embedder.
        fusion: how mode "hybrid" orders passages. "score": by the sum of the similarity and of the text rank, each scaled to [0, 1]. "rank": by
            reciprocal rank fusion. On four public collections, "score" reached an nDCG@10 that was .03 to .07 higher.
        shared: shared tenants whose documents each search includes, such as ("plans-2026",). The store's owner marks them with `store.share`.
        diversity: from 0, the best passages, to 1, passages that differ as much as possible from each other (maximal marginal relevance).
        neighbours: number of chunks before and after each passage that become part of it, 0 to 10.
        relative_threshold: lowest share of the best score of a question, from 0 to 1: passages with a lower score are dropped, except in mode "text".
            None, False or 0: no relative threshold. `explore.thresholds` recommends one.
        redact: function that replaces parts of a question, such as personal data, before the embedder gets it. Text search gets the
            whole question. None: no redaction.

    A passage whose words stand in the same order in a better passage is left out, and the next one takes its place.

    Starting the retriever starts the embedder and the store if they aren't open. Closing it closes the components that it started.
    """

    top_k: int
    score_threshold: float | None
    relative_threshold: float | None
    shared: tuple[str, ...]
    diversity: float
    neighbours: int

    def __init__(
        self,
        *,
        store: Searcher,
        embedder: Embedder | None = None,
        top_k: int = 5,
        score_threshold: float | Literal[False] | None = None,
        mode: Mode | None = None,
        fusion: Fusion = "score",
        shared: Sequence[str | UUID] = (),
        diversity: float = 0.0,
        neighbours: int = 0,
        relative_threshold: float | Literal[False] | None = None,
        redact: Redact | None = None,
    ) -> None:
        self.store = store
        self.embedder = embedder
        self.top_k = check_top_k(top_k)
        self.score_threshold = None if score_threshold is None else check_threshold(score_threshold)
        self.mode: Mode = check_mode(mode or ("text" if embedder is None else "hybrid"))
        self._chose_mode = mode is not None
        self.fusion: Fusion = check_fusion(fusion)
        self.shared = check_shared(shared)
        self.diversity = check_diversity(diversity)
        self.neighbours = check_neighbours(neighbours)
        self.relative_threshold = None if relative_threshold is None else check_relative_threshold(relative_threshold)
        self.redact = redact
        if embedder is None and self.mode != "text":
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
        """Return the passages for a question, best first, with the settings and timings of the search. If there are none, the result holds the reason.

        Args:
            question: the question to search for.
            tenant: the owner of the documents.
            options: query, top_k, score_threshold, relative_threshold, filter, mode, shared, diversity, neighbours, rerank, degrade, as described in
                `options.SearchOptions`. A value given here overrides the retriever's value.

        Raises:
            InvalidInput: the question, the tenant, an option or the filter is invalid, or the question exceeds the embedder's token limit.
            EmbeddingError, RerankingError, CircuitOpen: the embedder or the reranker is down, and `degrade` is False.
            StoreError: the store failed.
            DeadlineExceeded, Overloaded: the time is up, or there are too many calls.
            Unsupported: the store does not support this mode or filter.
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
                with watch.measure("embed"), flow(plan.tenant), begin("embed", component=self.embedder) as embedding:
                    # Outside of the embedder's time limit: slow redaction must not be reported as a slow embedder.
                    text = await self._redacting.redacted(self.redact, plan.searched)
                    vector = await (self._embed(text) if degrade is False else self._embed_in_time(text))
                    usage = self._used(plan.searched, watch)
                    embedding.note(input_tokens=usage.embedding_tokens)
            except (EmbeddingError, CircuitOpen) as error:
                if degrade is False:
                    raise
                failed = error
                emit("retriever.degraded", "embed", error=type(error).__name__)
                degraded = (Degradation("embed", str(error), "full text", error=type(error).__name__),)
                plan = replace(plan, mode="text")
        with watch.measure("search"), begin("search", component=self.store, plan=plan) as searching:
            query = replace(
                plan.query(vector),
                model=self._model(vector),
                rerank=options.get("rerank") is not False,
                degrade=degrade is not False,
                redact=self.redact,
            )
            try:
                plan, found, duplicates = await PassageSearch(self.store).find(
                    plan, query, other_mode=not self._chose_mode
                )
            except Unsupported as error:
                if failed is None:
                    raise
                raise failed from error  # the store can't search by text, so the embedder's error is the one to report
            if plan.mode == "vector" and query.mode == "hybrid" and plan.filter is None:
                # The store does not support hybrid search. With a filter, the filter may be the cause.
                self.mode = "vector"
            empty = None if found else await explain_empty(self.store, replace(query, mode=plan.mode), found)
            # A degraded search has mode "text". Its text ranks are not similarities, so the relative threshold does not apply.
            found = near_the_best(found, plan.relative_threshold if plan.mode != "text" else None)
            searching.note(passages=found)
        degraded = (*degraded, *found.degraded)
        return plan.retrieval(
            found, empty=empty, degraded=degraded, timings=watch.timings(), usage=usage, duplicates=duplicates
        )

    @spelled_out(VectorOptions)
    async def retrieve_by_vector(
        self,
        vector: Vector | Sequence[float],
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[VectorOptions],
    ) -> Retrieval:
        """Return the passages nearest to a vector, best first. Nothing is embedded, and no reranker sorts them.

        Args:
            vector: of shape (dimension,), made by the embedder's model.
            tenant: the owner of the documents.
            options: top_k, score_threshold, relative_threshold, filter, shared, diversity, neighbours, as described in `options.VectorOptions`.

        Raises:
            InvalidInput: the vector has another dimension than the embedder's, or is zero or not finite; or as in `retrieve`.
            StoreError, Unsupported: as in `retrieve`.
        """
        self._check_open()
        check_options(options, VectorOptions, "retrieve_by_vector")
        plan = plan_search(self, None, tenant, cast("SearchOptions", {**options, "mode": "vector"}))
        wanted = check_vector(vector, dimension=None if self.embedder is None else self.embedder.dimension)
        watch = Stopwatch()
        with watch.measure("search"):
            query = replace(plan.query(wanted), model=self._model(wanted), rerank=False)
            plan, found, duplicates = await PassageSearch(self.store).find(plan, query, other_mode=False)
            empty = None if found else await explain_empty(self.store, query, found)
            found = near_the_best(found, plan.relative_threshold)
        return plan.retrieval(
            found, empty=empty, degraded=found.degraded, timings=watch.timings(), usage=Usage(), duplicates=duplicates
        )

    @spelled_out(SimilarityOptions)
    async def similarity(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[SimilarityOptions],
    ) -> SimilarityReport:
        """Report how similar the tenant's chunks are to a question, and the effect of the threshold, which is not applied.

        Raises:
            Unsupported: the store does not return scores, or there is no embedder.
            EmbeddingError: as in `retrieve` with degrade=False.
        """
        self._check_open()
        store = self.store
        if not offers(store, Store) or self.embedder is None:
            raise Unsupported(
                "a similarity report needs an embedder and a store that has scores() and count()", stage="search"
            )
        check_options(options, SimilarityOptions, "similarity")
        asked: SearchOptions = {
            "score_threshold": options.get("score_threshold"),
            "filter": options.get("filter"),
            "mode": "vector",
            "relative_threshold": False,
        }
        plan = plan_search(self, question, tenant, asked)
        watch = Stopwatch()
        with watch.measure("embed"), flow(plan.tenant), begin("embed", component=self.embedder) as embedding:
            vector = await self._embed(await self._redacting.redacted(self.redact, plan.searched))
            usage = self._used(plan.searched, watch)
            embedding.note(input_tokens=usage.embedding_tokens)
        with watch.measure("search"), begin("search", component=self.store, plan=plan) as operation:
            # The report is about the tenant's own chunks, without the effects of the threshold, of shared tenants and of diversity.
            plan = replace(plan, shared=(), diversity=0.0)
            query = replace(plan.query(vector), model=self._model(vector), rerank=False)
            searching = PassageSearch(self.store)
            found = await searching.search(replace(query, score_threshold=None))
            by_text = await searching.search(replace(plan.query(None), mode="text", score_threshold=None, rerank=False))
            async with searching.errors():
                counts = await store.count(tenant=plan.tenant)
                scores = await self._scores(plan, vector)
            empty = None if found else await explain_empty(self.store, query, found)
            operation.note(passages=found)
        found[:] = _with_text_scores(found, by_text)
        retrieval = plan.retrieval(found, empty=empty, degraded=found.degraded, timings=watch.timings(), usage=usage)
        return report_similarity(retrieval, scores=scores, counts=counts, score_threshold=plan.score_threshold)

    def _used(self, query: str, watch: Stopwatch) -> Usage:
        """Return the tokens of the query and report them immediately, because they are used even if the search fails afterwards."""
        assert self.embedder is not None
        tokens = self.embedder.count_tokens(query)
        watch.embedded(tokens)
        return Usage(embedding_tokens=tokens)

    async def _scores(self, plan: Plan, vector: Vector) -> Vector:
        """Return the scores of the tenant's 10,000 nearest chunks, best first; with a filter, of the 1,000 nearest that match."""
        assert offers(self.store, Store)
        if plan.filter is None:
            return (await self.store.scores(vector, tenant=plan.tenant, limit=MOST_SCORES)).scores
        query = replace(plan.query(vector), top_k=MOST_FILTERED, score_threshold=None, rerank=False)
        return np.array([passage.score or 0.0 for passage in await self.store.search(query)], dtype=np.float32)

    async def _open(self) -> None:
        for part in (self.embedder, self.store):
            await self._parts.start(part)
        if offers(self.store, Looking):
            self._check_open().spawn(partial(self._look, self.store), name="checking that embedder and store fit")

    async def _look(self, store: Looking) -> None:
        """Log an error at start, before the first search, if the store holds vectors of another model than the embedder's."""
        found = await store.first_look()
        for finding in () if found is None else found.misfits(self.embedder):
            logger.error("%s", finding.message)

    async def _close(self) -> None:
        await self._parts.aclose()

    async def _embed_in_time(self, question: str) -> Vector:
        """Return the vector within a share of the remaining time: an embedder that never responds must leave time for text search."""
        limit, whole = share(EMBED_SHARE, most=MOST_EMBED_SECONDS), share(EMBED_AND_WAIT_SHARE, most=math.inf)
        if min(limit, whole) <= 0:  # no time is left, so `_embed` raises the error of the deadline
            return await self._embed(question)
        assert self.embedder is not None
        name = self.embedder.model
        patience = Patience(limit)
        until = anyio.current_time() + whole
        try:
            with deadline(whole), patience:
                return await self._embed(question)
        except DeadlineExceeded as error:
            if anyio.current_time() < until - NOT_ASKED:  # the embedder's own timeout, not the deadline set here
                raise EmbeddingError(f"the embedder {name} failed: {error}", dependency=name, stage="embed") from error
            if whole - patience.waited < NOT_ASKED:
                raise Overloaded(
                    f"the embedder {name} is overloaded: no place within {patience.waited:.1f} s",
                    dependency=name,
                    stage="embed",
                    retry_after=1.0,
                ) from error
            raise EmbeddingError(
                f"the embedder {name} did not answer within {whole - patience.waited:.1f} s, after {patience.waited:.1f} s of waiting for a place",
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


def _with_text_scores(passages: Sequence[Passage], by_text: Sequence[Passage]) -> tuple[Passage, ...]:
    ranks = {passage.chunk_id: passage.text_score for passage in by_text}
    return tuple(replace(passage, text_score=ranks.get(passage.chunk_id)) for passage in passages)

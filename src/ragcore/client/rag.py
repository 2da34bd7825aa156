"""The client, and its view for one tenant. Each call ends by its deadline.

Read `ask` from top to bottom: validate, retrieve, prompt, generate, cite. These steps are functions of `answering`. This module has the life cycle and the
accounting: each call has a deadline and is charged, however it ends. Both classes are in one file, since each of them refers to the other.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast, overload
from uuid import UUID

from ragcore.audit import record
from ragcore.client.answering import Request, cite, generate, make_prompt, retrieve, search_of, validate
from ragcore.client.charging import Charging
from ragcore.client.components import Generators, cached, make_embedder, make_generator, make_reranker, make_store
from ragcore.client.many import Answers, Questions, check_concurrency, check_questions
from ragcore.client.options import AnySchema, AskOptions, RetrieveOptions, TimedSimilarityOptions, TimedVectorOptions
from ragcore.client.rewriting import Rewriter
from ragcore.client.stream import AnswerStream
from ragcore.client.structured import generate_structured, plus
from ragcore.compat.ability import offers
from ragcore.config import Config, Policies, Settings
from ragcore.errors import (
    ConfigurationError,
    InvalidInput,
    NotOpen,
    RagcoreError,
    StoreError,
    Unsupported,
)
from ragcore.generation.structure import Structure
from ragcore.ingest.ingestor import Ingestor
from ragcore.ingest.sources.named import sources_of
from ragcore.ingest.sources.options import IngestOptions, source_options
from ragcore.ingest.sources.run import SourceRun
from ragcore.ingest.sources.source import Source
from ragcore.lifecycle.part import Part, Parts
from ragcore.operating.calls import Call, Calls
from ragcore.operating.health import HealthCheck, describe
from ragcore.operating.watchdog import Watchdog
from ragcore.protocols import (
    ChunkReader,
    Clearable,
    Embedder,
    Found,
    Generator,
    OriginStore,
    Reranker,
    Searcher,
    Store,
    Vector,
    VectorCache,
    Watched,
)
from ragcore.resilience import RateLimiter
from ragcore.resilience.policy import policy_of
from ragcore.retrieval.options import SearchOptions, VectorOptions, check_options, spelled_out
from ragcore.retrieval.plan import plan_search
from ragcore.retrieval.reranking.searcher import RerankedSearcher
from ragcore.retrieval.retriever import Retriever
from ragcore.text.redacting import Redacting
from ragcore.text.redaction import Redact
from ragcore.types import (
    Answer,
    AskProgress,
    CallInfo,
    Document,
    Erased,
    Generation,
    Health,
    IngestReport,
    LimitState,
    Prompt,
    Retrieval,
    SimilarityReport,
    Stats,
    Turn,
    Unreadable,
    Usage,
    UsedTokens,
)
from ragcore.types.validation import (
    check_history,
    check_ids,
    check_tenant,
    check_timeout,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RAG", "TenantView"]

D = TypeVar("D")

# Limits of `delete_tenant`: documents per statement, and repeats for documents that other callers add at the same time.
DELETED_AT_ONCE = 1_000
MOST_PASSES = 100


class RAG(Part):
    """Answers questions from a tenant's documents. Make one client per process and event loop, and share it between all requests.

    Args:
        retriever: finds the passages.
        generator: writes the answer. Quotation is added as the last resort, unless it is a `FallbackGenerator` that ends with quotation.
        ingestor: adds documents; None: one with the retriever's embedder and store.
        settings: None: the defaults.

    Examples:
        ```python
        async with ragcore.RAG.from_config(ragcore.Config.from_env()) as rag:
            answer = await rag.ask("How long is the warranty?", tenant="acme", timeout=30)
        ```

    All methods that do I/O for a tenant raise `NotOpen` before `start` and after `aclose`, `WrongEventLoop` on another event loop, `InvalidInput` for a
    blank tenant or a timeout that isn't positive, and `DeadlineExceeded` when their time is used up.
    """

    settings: Settings

    def __init__(
        self,
        *,
        retriever: Retriever,
        generator: Generator,
        ingestor: Ingestor | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._retriever = retriever
        self.settings = settings or Settings()
        self._generators = Generators.of(
            generator,
            quote_when_overloaded=self.settings.quote_when_overloaded,
            redact=self.settings.redact,
            redacting=Redacting(),
            embedder=retriever.embedder,
        )
        self._ingestor = ingestor
        self._calls = Calls(recent=self.settings.recent, plain_tenants=self.settings.log_tenants)
        self._redact_with(self.settings.redact)
        self._charging = Charging(
            self.settings,
            calls=self._calls,
            store=retriever.store,
            embedder=retriever.embedder,
            generators=self._generators,
        )
        self._rewriter = Rewriter(
            self.settings.rewrite,
            generators=self._generators,
            embedder=retriever.embedder,
            charging=self._charging,
        )
        self._health = HealthCheck()
        self._watchdog = Watchdog(self._calls) if self.settings.watchdog else None
        self._parts = Parts()
        self._drain = self.settings.drain

    @classmethod
    def from_config(
        cls,
        config: Config,
        /,
        *,
        embedder: Embedder | None = None,
        store: Searcher | None = None,
        generator: Generator | None = None,
        reranker: Reranker | None = None,
        policies: Policies | None = None,
    ) -> Self:
        """Make a client from a configuration. Components that are given replace those of the configuration. Does no I/O.

        Raises:
            ConfigurationError: a setting is invalid, or an extra, a model or a key is missing.
        """
        policies = policies or Policies()
        # Compare with None: a component with `__len__` is false while it is empty.
        given = make_embedder(config, policies) if embedder is None else embedder
        searcher = make_store(config, policies, given) if store is None else store
        embedder = cached(given, config, searcher) if embedder is None else embedder
        reranker = make_reranker(config, policies) if reranker is None else reranker
        if reranker is not None:
            policy = policies.reranking if policy_of(reranker) is None else None
            searcher = RerankedSearcher(searcher, reranker, candidates=config.rerank_candidates, policy=policy)
        retriever = Retriever(
            store=searcher,
            embedder=embedder,
            top_k=config.top_k,
            score_threshold=config.score_threshold,
            relative_threshold=config.relative_threshold,
            mode=config.mode,
            fusion=config.fusion,
            shared=config.shared,
            diversity=config.diversity,
            neighbours=config.neighbours,
        )
        writable = retriever.store
        ingestor = None
        if offers(writable, Store):
            ingestor = Ingestor(
                embedder=embedder,
                store=writable,
                chunk_tokens=config.chunk_tokens,
                overlap_tokens=config.overlap_tokens,
                embed_text=config.embed_text,
            )
        return cls(
            retriever=retriever,
            generator=make_generator(config, policies) if generator is None else generator,
            ingestor=ingestor,
            settings=config.settings,
        )

    @property
    def retriever(self) -> Retriever:
        """The client's retriever, for `explore` and debug routes."""
        return self._retriever

    async def aclose(self, *, drain: float | None = None) -> None:
        """Close the client: refuse new calls, wait for running calls, then close the components that it started. Idempotent.

        Args:
            drain: seconds that running calls get before they are cancelled; None: `Settings.drain`.
        """
        seconds = self.settings.drain if drain is None else drain
        if self._closing is not None:  # another task is closing the client, perhaps with a longer drain time
            self._calls.hurry(seconds)
        else:
            self._drain = seconds
        await super().aclose()

    @overload
    async def ask(
        self, question: str, /, *, tenant: str | UUID, schema: type[D], **options: Unpack[AskOptions]
    ) -> Answer[D]: ...

    @overload
    async def ask(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        schema: Mapping[str, object] | None = None,
        **options: Unpack[AskOptions],
    ) -> Answer: ...

    @spelled_out(AskOptions)
    async def ask(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        schema: AnySchema | None = None,
        **options: Unpack[AskOptions],
    ) -> Answer:
        """Answer a question from the tenant's documents.

        Args:
            question: the question. For a follow-up question, the search uses the history: see `Settings.rewrite`. The prompt has the question as it was asked.
            tenant: the owner of the documents.
            schema: the form of `Answer.data`: a pydantic model, a dataclass, a TypedDict, or a JSON schema. The model then writes the answer as text and
                as data. The data is an instance of the class, a dict for a TypedDict, or decoded JSON for a JSON schema. A reply that does not fit is sent
                back to the model once. None: no data.
            options: timeout, history, instructions, max_tokens, temperature, stop, query, top_k, score_threshold, relative_threshold,
                filter, mode, shared, diversity, neighbours, rerank, degrade, as `options.AskOptions` describes them.

        Returns:
            The answer. If the documents don't answer the question, `found` is False and the text says so.

        Raises:
            InvalidInput: an argument is invalid. Raised before anything is sent.
            StoreError: the search failed, so there are no passages to answer from.
            Overloaded: a dependency has no place for the call. Raised as soon as this is known.
            EmbeddingError, GenerationError, CircuitOpen: a dependency failed, and `degrade` is False.
            InvalidAnswer: the model's replies do not fit the schema, and `degrade` is False.
        """
        check_options(options, AskOptions, "ask")
        async with self._limited("ask", tenant, options.get("timeout")) as call:
            request = validate(question, options, self.settings, schema=schema)
            retrieval = await self._retrieved(call, question, request.search, request.history)
            prompt = make_prompt(request, retrieval, self.settings, self._generators.answering.count_tokens)
            if prompt is not None and request.structure is not None:
                return await self._structured(call, request, retrieval, prompt, request.structure)
            generation = None
            if prompt is not None:
                generation = await generate(call, prompt, self._generators, degrade=request.degrade)
            return self._answered(call, retrieval, prompt, generation)

    @spelled_out(AskOptions)
    def stream(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[AskOptions],
    ) -> AbstractAsyncContextManager[AnswerStream]:
        """Answer a question in pieces. Arguments and errors are those of `ask`.

        Entering the stream validates and retrieves, so a web application can still answer these errors with a status code. The stream may be entered, read
        and left in different tasks.

        Examples:
            ```python
            async with rag.stream("And for the battery?", tenant="acme", history=answer.turns) as stream:
                async for event in stream:
                    match event:
                        case ragcore.Delta(text):
                            print(text, end="")
            ```
        """
        check_options(options, AskOptions, "stream")
        return self._stream(question, tenant, options)

    @spelled_out(AskOptions)
    def ask_many(
        self,
        questions: Questions,
        /,
        *,
        tenant: str | UUID,
        concurrency: int = 4,
        total_timeout: float | None = None,
        progress: Callable[[AskProgress], None] | None = None,
        schema: AnySchema | None = None,
        **options: Unpack[AskOptions],
    ) -> AbstractAsyncContextManager[Answers]:
        """Answer many questions, a few at a time. The results arrive as the questions are answered, each with its position, its answer or its error.

        The questions are read when a place is free. A question that fails does not end the others. Leaving the block cancels the questions under way.

        Args:
            questions: the questions. An error of the iterable is raised after the results of the questions that were read.
            tenant: the owner of the documents.
            concurrency: the largest number of questions at once, 1 to 1,000. Choose at most the tenant's `calls_at_once`.
            total_timeout: seconds for all questions together; None: no limit. Questions under way at its end fail, and `DeadlineExceeded` is raised if some
                were not asked.
            progress: called after each result.
            schema: as for `ask`.
            options: as for `ask`, and the same for each question. `timeout` is the time for one question.

        Raises:
            InvalidInput: an argument is invalid. Raised when the block is entered. An invalid question is the error of its own result.

        Examples:
            ```python
            async with rag.ask_many(questions, tenant="acme", concurrency=8) as answers:
                async for asked in answers:
                    print(asked.question, asked.answer.text if asked.answer else asked.error)
            ```
        """
        check_options(options, AskOptions, "ask_many")
        return self._ask_many(questions, tenant, concurrency, total_timeout, progress, schema, options)

    @spelled_out(RetrieveOptions)
    async def retrieve(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[RetrieveOptions],
    ) -> Retrieval:
        """Return the passages for a question. Arguments and errors are those of `ask`."""
        check_options(options, RetrieveOptions, "retrieve")
        async with self._limited("retrieve", tenant, options.get("timeout")) as call:
            history = check_history(options.get("history", ()))
            retrieval = await self._retrieved(call, question, search_of(options, self.settings), history)
            self._charging.charge(call, Usage(embedding_tokens=retrieval.usage.embedding_tokens), "")
            return retrieval

    @spelled_out(TimedVectorOptions)
    async def retrieve_by_vector(
        self,
        vector: Vector | Sequence[float],
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[TimedVectorOptions],
    ) -> Retrieval:
        """Return the passages nearest to a vector. See `Retriever.retrieve_by_vector`. It counts against the tenant's limits like `retrieve`."""
        check_options(options, TimedVectorOptions, "retrieve_by_vector")
        async with self._limited("retrieve_by_vector", tenant, options.get("timeout")) as call:
            call.stage = "search"
            wanted = cast("VectorOptions", {name: value for name, value in options.items() if name != "timeout"})
            retrieval = await self._retriever.retrieve_by_vector(vector, tenant=call.tenant, **wanted)
            call.findings.searched(retrieval)
            call.passages = len(retrieval.passages)
            return retrieval

    @spelled_out(TimedSimilarityOptions)
    async def similarity(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[TimedSimilarityOptions],
    ) -> SimilarityReport:
        """Report how near the tenant's chunks are to a question, and the effect that a threshold would have. See `Retriever.similarity`."""
        check_options(options, TimedSimilarityOptions, "similarity")
        async with self._limited("similarity", tenant, options.get("timeout")) as call:
            report = await self._retriever.similarity(
                question,
                tenant=call.tenant,
                score_threshold=options.get("score_threshold"),
                filter=options.get("filter"),
            )
            call.passages = len(report.retrieval.passages)
            self._charging.charge(call, report.retrieval.usage, "")
            return report

    async def add(
        self,
        documents: Iterable[Document | Unreadable] | AsyncIterable[Document | Unreadable],
        /,
        *,
        tenant: str | UUID,
        progress: Callable[[IngestReport], None] | None = None,
        document_timeout: float | None = None,
        split: bool = True,
        rate_limiter: RateLimiter | None = None,
    ) -> IngestReport:
        """Add documents, or replace those with the same ids. See `Ingestor.add`.

        Args:
            documents: documents, or files that could not be read.
            tenant: the owner of the documents.
            progress: called with the report so far.
            document_timeout: seconds for each step of a document; None: `Settings.document_timeout`.
            split: whether to cut the documents into chunks. False: each document is one chunk, whose text comes back as it was given.
            rate_limiter: limits the requests and tokens a minute that go to the embedder; None: no limit.
        """
        ingestor = self._ingesting()
        limit = check_timeout(document_timeout, name="document_timeout") or self.settings.document_timeout
        with self._call("add", check_tenant(tenant), None, bounded=False) as call:
            call.stage = "write"
            report = await ingestor.add(
                documents,
                tenant=call.tenant,
                progress=progress,
                document_timeout=limit,
                split=split,
                rate_limiter=rate_limiter,
            )
            call.documents = report.added + report.updated
            return report

    @spelled_out(IngestOptions)
    async def ingest(
        self, *sources: str | PathLike[str] | Source, tenant: str | UUID, **options: Unpack[IngestOptions]
    ) -> IngestReport:
        """Add the documents of sources: folders, files, patterns, lists of URLs, object stores, queries. See `IngestOptions`.

        The store records for each document which source lists it. With `sync`, documents that are recorded for a source and that its listing no longer contains
        are deleted: only after a listing that ended without an error, and without `confirmed` only if at most 20 % of them are gone. A file that can't be
        read is not gone.

        Args:
            sources: paths, patterns such as "docs/**/*.md", URLs such as "s3://bucket/docs", or sources of `ragcore.ingest`.
            tenant: the owner of the documents.
            options: see `IngestOptions`.

        Raises:
            InvalidInput: a source does not exist or can't be listed, or nothing in it can be read. With `sync`, an empty source is no error.
            DependencyError: a listing failed. Documents that were added before stay; nothing is deleted.
            Overloaded: another run with `sync` is busy with one of the sources, for the same tenant.
            Unsupported: `sync` with a store that has no records of sources.
            EmbeddingError, StoreError, CircuitOpen, DeadlineExceeded: as in `add`.

        Examples:
            ```python
            report = await rag.ingest("manuals", tenant="a", sync=True, dry_run=True)
            print(report.added, report.updated, report.gone)
            ```
        """
        if not sources:
            raise InvalidInput("there is no source: pass a path, a URL, or a Source")
        ingestor = self._ingesting()
        chosen = source_options(**options)
        limit = (
            check_timeout(options.get("document_timeout"), name="document_timeout") or self.settings.document_timeout
        )
        found = await sources_of(
            sources, follow_symlinks=options.get("follow_symlinks", False), hosts=options.get("hosts", ())
        )
        with self._call("ingest", check_tenant(tenant), None, bounded=False) as call:
            call.stage = "write"
            run = SourceRun(ingestor, found, tenant=call.tenant, options=chosen)
            delete = partial(self._delete_of, call.tenant)
            report = await run.add(
                progress=options.get("progress"),
                document_timeout=limit,
                delete=delete,
            )
            call.documents = report.added + report.updated + report.deleted
            return report

    async def _delete_of(self, tenant: str, source: str, document_ids: Sequence[str]) -> int:
        """Delete documents that are gone from a source, as a call of its own, so that the audit log has it."""
        with self._call("delete", tenant, None) as call, _store_errors("write"):
            call.stage = "write"
            store = self._store("ingest")
            assert offers(store, OriginStore)
            call.documents = await store.delete_of(source, document_ids, tenant=tenant)
            return call.documents

    async def delete(self, document_ids: Iterable[str], /, *, tenant: str | UUID, timeout: float | None = None) -> int:
        """Remove documents, and return how many existed. Unknown ids are ignored."""
        ids = check_ids(document_ids)
        with self._call("delete", check_tenant(tenant), timeout) as call, _store_errors("write"):
            call.stage = "write"
            call.documents = await self._store("delete").delete(ids, tenant=call.tenant)
            return call.documents

    async def delete_tenant(self, *, tenant: str | UUID, timeout: float | None = None) -> Erased:
        """Erase a tenant's data: its documents with their chunks, its vectors in this process's cache and in the database, its finished calls, its counts.

        Repeats until no document is left, at most 100 times, to erase also documents that other callers add at the same time.

        The page on security lists the places where copies remain: dead rows until VACUUM, the WAL, backups, logs, and caches of other processes.

        Raises:
            StoreError: the erasure is incomplete; call it again.
        """
        with self._call("delete_tenant", check_tenant(tenant), timeout) as call, _store_errors("write"):
            call.stage = "write"
            store, name = self._store("delete_tenant"), call.tenant
            documents = chunks = 0
            for _ in range(MOST_PASSES):
                ids = list(await store.hashes(None, tenant=name))
                if not ids:
                    break
                chunks += (await store.count(tenant=name)).chunks
                for start in range(0, len(ids), DELETED_AT_ONCE):
                    documents += await store.delete(ids[start : start + DELETED_AT_ONCE], tenant=name)
            call.documents = documents
            embedder = self._retriever.embedder
            vectors = embedder.clear(tenant=name) if offers(embedder, Clearable) else 0
            vectors += self._generators.clear(tenant=name)
            if offers(store, VectorCache):
                vectors += await store.clear_cached_vectors(tenant=name)
            self._charging.quota.forget(name)
            return Erased(documents, chunks, vectors, self._calls.forget(name))

    async def documents(self, *, tenant: str | UUID, timeout: float | None = None) -> Mapping[str, str]:
        """Return the content hashes of all documents of the tenant, by id."""
        with self._call("documents", check_tenant(tenant), timeout) as call, _store_errors("search"):
            call.stage = "search"
            known = await self._store("documents").hashes(None, tenant=call.tenant)
            call.documents = len(known)
            return known

    async def chunks(
        self,
        document_id: str,
        /,
        *,
        tenant: str | UUID,
        with_vectors: bool = False,
        timeout: float | None = None,
    ) -> Found:
        """Return all chunks of a document in the order of its text, without a limit of their number. There are none if the document does not exist.

        Args:
            document_id: the document's id.
            tenant: the owner of the document.
            with_vectors: whether the result has the chunks' vectors, in `Found.vectors`.
            timeout: seconds for the whole call; None: `Settings.timeout`.

        Raises:
            Unsupported: the store can't return chunks without a search.
            StoreError: the store failed.
        """
        (wanted,) = check_ids([document_id])
        with self._call("chunks", check_tenant(tenant), timeout) as call, _store_errors("search"):
            call.stage = "search"
            found = await self._chunk_reader().document_chunks(wanted, tenant=call.tenant, with_vectors=with_vectors)
            call.passages = len(found)
            return found

    async def chunks_by_id(
        self,
        chunk_ids: Iterable[str],
        /,
        *,
        tenant: str | UUID,
        with_vectors: bool = False,
        timeout: float | None = None,
    ) -> Found:
        """Return the chunks with these ids, in the order of the ids. Unknown ids are left out. Arguments and errors are those of `chunks`."""
        wanted = check_ids(chunk_ids)
        with self._call("chunks_by_id", check_tenant(tenant), timeout) as call, _store_errors("search"):
            call.stage = "search"
            found = await self._chunk_reader().chunks_by_id(wanted, tenant=call.tenant, with_vectors=with_vectors)
            call.passages = len(found)
            return found

    def for_tenant(self, tenant: str | UUID, /) -> TenantView:
        """Return a view with the same methods for one tenant. It is cheap: make one for each request."""
        return TenantView(self, check_tenant(tenant))

    async def health(self) -> Health:
        """Check the client and its dependencies. Never raises, takes at most `Settings.health_timeout` seconds, and is cached for a second."""
        return await self._health.check(self, self.settings.health_timeout)

    async def describe(self) -> dict[str, Any]:
        """Return versions, settings, database, role, schema and counts, without secrets. None stands for a value that could not be read."""
        return {
            **await describe(self, self.settings.health_timeout),
            "generators": self._generators.answering.describe(),
        }

    def stats(self) -> Stats:
        """Return a snapshot of policies, pools, caches and calls."""
        embedder, store = self._retriever.embedder, self._retriever.store
        generators = {f"generation {name}": generator for name, generator in self._generators.named.items()}
        parts: dict[str, object] = {"embedding": embedder, "store": store, **generators}
        policies = {name: policy for name, part in parts.items() if (policy := policy_of(part)) is not None}
        writes = policy_of(store, "write_policy")
        if writes is not None:
            policies["store writes"] = writes
        for address, policy in getattr(store, "read_policies", {}).items():
            policies[f"replica {address}"] = policy
        reranking, reranker = policy_of(store, "rerank_policy"), getattr(store, "reranker", None)
        if reranking is not None:
            policies["reranking"] = reranking
        counting = {"embedding": embedder, "reranking": reranker}
        return Stats(
            policies={name: policy.snapshot().to_dict() for name, policy in policies.items()},
            pools={"store": store.snapshot()} if offers(store, Watched) else {},
            caches={name: part.snapshot() for name, part in counting.items() if offers(part, Watched)},
            calls=self._calls.counts(),
        )

    def inflight(self) -> tuple[CallInfo, ...]:
        """Return the running calls, oldest first, each with its stage and the line of code at which it waits."""
        return self._calls.inflight()

    def recent(self) -> tuple[CallInfo, ...]:
        """Return the last `Settings.recent` finished calls, oldest first."""
        return self._calls.recent()

    async def _open(self) -> None:
        self._calls.closed = False
        generators = self._generators
        for part in (self._retriever, generators.answering, generators.alone, generators.quoting):
            await self._parts.start(part)
        # Last, because no call runs yet, and a start may block the loop: it loads models.
        if self._watchdog is not None:
            self._watchdog.start()

    async def _close(self) -> None:
        try:
            await self._calls.drain(self._drain)
        finally:
            try:
                await self._parts.aclose()
            finally:
                if self._watchdog is not None:
                    self._watchdog.stop()

    @contextmanager
    def _call(self, method: str, tenant: str, timeout: float | None, *, bounded: bool = True) -> Iterator[Call]:
        """Run a block as a call of a checked tenant. The call has a deadline, is listed in `inflight`, and is recorded however it ends."""
        call = self._begin(method, tenant, timeout, bounded=bounded)
        try:
            with call:
                yield call
        except BaseException as error:
            call.failed(error)
            raise
        call.finish("degraded" if call.findings.degraded else "ok")

    @asynccontextmanager
    async def _limited(self, method: str, tenant: str | UUID, timeout: float | None) -> AsyncIterator[Call]:
        """Run a block as a call that counts against its tenant's limits."""
        self._check_open()
        name = check_tenant(tenant)
        # Before the call begins: refusing a tenant must cost almost nothing, and the call must not appear in `recent`.
        self._charging.admit(name)
        begun: Call | None = None
        try:
            with self._call(method, name, timeout) as call:
                begun = call
                await self._charging.admit_shared(call)
                yield call
        finally:
            if begun is not None:
                await self._charging.settle(begun, self._owner)

    def _begin(self, method: str, tenant: str, timeout: float | None, *, bounded: bool = True) -> Call:
        self._check_open()
        if self._calls.closed:
            raise NotOpen("the client is closing and accepts no new calls")
        seconds = (check_timeout(timeout) or self.settings.timeout) if bounded else None
        return self._calls.begin(method, tenant, seconds)

    def limits(self, *, tenant: str | UUID) -> tuple[LimitState, ...]:
        """Return how much of each of a tenant's limits per minute remains; () if no limit is set."""
        return self._charging.quota.state(check_tenant(tenant))

    def used(self) -> Mapping[tuple[str, str], UsedTokens]:
        """Return the tokens used and their cost since the client was made, by tenant and model."""
        return self._charging.quota.used()

    @asynccontextmanager
    async def _stream(self, question: str, tenant: str | UUID, options: AskOptions) -> AsyncIterator[AnswerStream]:
        owner = self._check_open()
        name = check_tenant(tenant)
        self._charging.admit(name)
        call = self._begin("stream", name, options.get("timeout"))
        try:
            with call:
                await self._charging.admit_shared(call)
                request = validate(question, options, self.settings)
                retrieval = await self._retrieved(call, question, request.search, request.history)
                prompt = make_prompt(request, retrieval, self.settings, self._generators.answering.count_tokens)
                call.prompt = prompt
        except BaseException as error:
            call.failed(error)
            await self._charging.settle(call, self._owner)
            raise
        # The audit log records a call when it ends. This extra line records the access to passages even if the process dies before the end.
        record(
            "stream", call.tenant, by=call.actor, call_id=call.id, outcome="begun", passages=call.passages, documents=0
        )
        stream = AnswerStream(
            call=call,
            owner=owner,
            retrieval=retrieval,
            generator=self._generators.degrading if request.degrade else self._generators.strict,
            prompt=prompt,
            finish=self._answered,
        )
        try:
            yield stream
        finally:
            try:
                await stream.aclose()
            finally:
                await self._charging.settle(call, self._owner)

    @asynccontextmanager
    async def _ask_many(
        self,
        questions: Questions,
        tenant: str | UUID,
        concurrency: int,
        total_timeout: float | None,
        progress: Callable[[AskProgress], None] | None,
        schema: AnySchema | None,
        options: AskOptions,
    ) -> AsyncIterator[Answers]:
        owner, name = self._check_open(), check_tenant(tenant)
        check_questions(questions)
        check_timeout(options.get("timeout"))
        # Check the options once, so that a wrong one is an error here instead of the error of each question.
        request = validate("?", options, self.settings, schema=schema)
        plan_search(self._retriever, "?", name, request.search)
        answers = Answers(
            lambda question: self.ask(question, tenant=name, schema=schema, **options),
            questions,
            concurrency=check_concurrency(concurrency),
            total_timeout=check_timeout(total_timeout, name="total_timeout"),
            progress=progress,
        )
        answers.start(owner)
        try:
            yield answers
        finally:
            await answers.aclose()

    async def _retrieved(self, call: Call, question: str, search: SearchOptions, history: Sequence[Turn]) -> Retrieval:
        return await retrieve(call, self._retriever, question, search, history=history, rewriter=self._rewriter)

    async def _structured(
        self, call: Call, request: Request, retrieval: Retrieval, prompt: Prompt, structure: Structure
    ) -> Answer[Any]:
        found = await generate_structured(
            call, prompt, self._generators, structure, degrade=request.degrade, count=self._charging.count
        )
        answer = self._answered(call, retrieval, prompt, found.generation)
        return replace(answer, data=found.data if answer.found else None, usage=plus(answer.usage, found.rejected))

    def _answered(
        self, call: Call, retrieval: Retrieval, prompt: Prompt | None, generation: Generation | None
    ) -> Answer:
        answer = cite(call, self.settings, retrieval, prompt, generation)
        call.findings.answered(answer)
        self._charging.answered(call, answer, generation)
        return answer

    def _redact_with(self, redact: Redact | None) -> None:
        """Give the setting to all components: a component without it would send texts that must be redacted."""
        for part in (self._retriever, self._ingestor):
            if part is None or redact is None or part.redact == redact:
                continue
            if part.redact is not None:
                raise ConfigurationError(
                    f"the redact of the {type(part).__name__} differs from that of the settings: pass the same one, or none"
                )
            part.redact = redact

    def _ingesting(self) -> Ingestor:
        self._check_open()
        if self._ingestor is None:
            embedder, store = self._retriever.embedder, self._store("add")
            if embedder is None:
                raise Unsupported("add needs an embedder: pass one to the Retriever", stage="write")
            self._ingestor = Ingestor(embedder=embedder, store=store, redact=self.settings.redact)
        return self._ingestor

    def _store(self, what: str) -> Store:
        store = self._retriever.store
        if not offers(store, Store):
            raise Unsupported(f"{what} needs a Store, and {type(store).__name__} is only a Searcher", stage="write")
        return store

    def _chunk_reader(self) -> ChunkReader:
        store = self._retriever.store
        if not offers(store, ChunkReader):
            raise Unsupported(
                f"{type(store).__name__} returns chunks only by a search: it has no document_chunks() and chunks_by_id()",
                stage="search",
            )
        return store


class TenantView:
    """`RAG`'s methods with the tenant bound. Made by `RAG.for_tenant`."""

    __slots__ = ("_rag", "_tenant")

    def __init__(self, rag: RAG, tenant: str) -> None:
        self._rag = rag
        self._tenant = tenant

    def __repr__(self) -> str:
        return f"TenantView(tenant={self._tenant!r})"

    @property
    def tenant(self) -> str:
        """The owner of the documents."""
        return self._tenant

    @overload
    async def ask(self, question: str, /, *, schema: type[D], **options: Unpack[AskOptions]) -> Answer[D]: ...

    @overload
    async def ask(
        self,
        question: str,
        /,
        *,
        schema: Mapping[str, object] | None = None,
        **options: Unpack[AskOptions],
    ) -> Answer: ...

    @spelled_out(AskOptions)
    async def ask(
        self,
        question: str,
        /,
        *,
        schema: AnySchema | None = None,
        **options: Unpack[AskOptions],
    ) -> Answer:
        """Answer a question from the tenant's documents. See `RAG.ask`."""
        return await self._rag.ask(question, tenant=self._tenant, schema=schema, **options)

    @spelled_out(AskOptions)
    def stream(
        self,
        question: str,
        /,
        **options: Unpack[AskOptions],
    ) -> AbstractAsyncContextManager[AnswerStream]:
        """Answer a question in pieces. See `RAG.stream`."""
        return self._rag.stream(
            question,
            tenant=self._tenant,
            **options,
        )

    @spelled_out(AskOptions)
    def ask_many(
        self,
        questions: Questions,
        /,
        *,
        concurrency: int = 4,
        total_timeout: float | None = None,
        progress: Callable[[AskProgress], None] | None = None,
        schema: AnySchema | None = None,
        **options: Unpack[AskOptions],
    ) -> AbstractAsyncContextManager[Answers]:
        """Answer many questions, a few at a time. See `RAG.ask_many`."""
        return self._rag.ask_many(
            questions,
            tenant=self._tenant,
            concurrency=concurrency,
            total_timeout=total_timeout,
            progress=progress,
            schema=schema,
            **options,
        )

    @spelled_out(RetrieveOptions)
    async def retrieve(
        self,
        question: str,
        /,
        **options: Unpack[RetrieveOptions],
    ) -> Retrieval:
        """Return the passages for a question. See `RAG.retrieve`."""
        return await self._rag.retrieve(
            question,
            tenant=self._tenant,
            **options,
        )

    @spelled_out(TimedVectorOptions)
    async def retrieve_by_vector(
        self,
        vector: Vector | Sequence[float],
        /,
        **options: Unpack[TimedVectorOptions],
    ) -> Retrieval:
        """Return the passages nearest to a vector. See `RAG.retrieve_by_vector`."""
        return await self._rag.retrieve_by_vector(vector, tenant=self._tenant, **options)

    @spelled_out(TimedSimilarityOptions)
    async def similarity(
        self,
        question: str,
        /,
        **options: Unpack[TimedSimilarityOptions],
    ) -> SimilarityReport:
        """Report how near the tenant's chunks are to a question. See `RAG.similarity`."""
        return await self._rag.similarity(question, tenant=self._tenant, **options)

    async def add(
        self,
        documents: Iterable[Document | Unreadable] | AsyncIterable[Document | Unreadable],
        /,
        *,
        progress: Callable[[IngestReport], None] | None = None,
        document_timeout: float | None = None,
        split: bool = True,
        rate_limiter: RateLimiter | None = None,
    ) -> IngestReport:
        """Add documents, or replace those with the same ids. See `RAG.add`."""
        return await self._rag.add(
            documents,
            tenant=self._tenant,
            progress=progress,
            document_timeout=document_timeout,
            split=split,
            rate_limiter=rate_limiter,
        )

    @spelled_out(IngestOptions)
    async def ingest(self, *sources: str | PathLike[str] | Source, **options: Unpack[IngestOptions]) -> IngestReport:
        """Add the documents of sources. See `RAG.ingest`."""
        return await self._rag.ingest(*sources, tenant=self._tenant, **options)

    async def delete(self, document_ids: Iterable[str], /, *, timeout: float | None = None) -> int:
        """Remove documents, and return how many existed. See `RAG.delete`."""
        return await self._rag.delete(document_ids, tenant=self._tenant, timeout=timeout)

    async def delete_tenant(self, *, timeout: float | None = None) -> Erased:
        """Erase the tenant's data. See `RAG.delete_tenant`."""
        return await self._rag.delete_tenant(tenant=self._tenant, timeout=timeout)

    async def documents(self, *, timeout: float | None = None) -> Mapping[str, str]:
        """Return the content hashes of the tenant's documents, by id. See `RAG.documents`."""
        return await self._rag.documents(tenant=self._tenant, timeout=timeout)

    async def chunks(self, document_id: str, /, *, with_vectors: bool = False, timeout: float | None = None) -> Found:
        """Return all chunks of a document in the order of its text. See `RAG.chunks`."""
        return await self._rag.chunks(document_id, tenant=self._tenant, with_vectors=with_vectors, timeout=timeout)

    async def chunks_by_id(
        self, chunk_ids: Iterable[str], /, *, with_vectors: bool = False, timeout: float | None = None
    ) -> Found:
        """Return the chunks with these ids. See `RAG.chunks_by_id`."""
        return await self._rag.chunks_by_id(chunk_ids, tenant=self._tenant, with_vectors=with_vectors, timeout=timeout)


@contextmanager
def _store_errors(stage: str) -> Iterator[None]:
    """Turn exceptions of a custom store into `StoreError`."""
    try:
        yield
    except RagcoreError:
        raise
    except Exception as error:
        raise StoreError(f"the store raised {type(error).__name__}", dependency="store", stage=stage) from error

"""The client: questions in, answers out, each by its deadline.

Read `ask` from top to bottom: validate, retrieve, prompt, generate, cite. RAG owns the deadline, the reserve for the last resort, and the last
resort itself; each part owns its policy around its wire call.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, Unpack
from uuid import UUID

import anyio

from ragcore.audit import record
from ragcore.client.components import alone, make_embedder, make_generator, make_store, with_last_resort
from ragcore.client.options import AskOptions, RetrieveOptions, TimedSimilarityOptions
from ragcore.client.stream import AnswerStream
from ragcore.client.view import TenantView
from ragcore.config import EXTRACTIVE, Config, Policies, Settings
from ragcore.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotOpen,
    Overloaded,
    RagcoreError,
    StoreError,
    Unsupported,
)
from ragcore.events import emit
from ragcore.generation.citations import find_citations
from ragcore.generation.ending import is_complete
from ragcore.generation.extractive import ExtractiveGenerator, excerpt
from ragcore.generation.fallback import FallbackGenerator, name_of
from ragcore.generation.prompt import build_prompt, render
from ragcore.generation.redacting import RedactingGenerator
from ragcore.generation.streams import collect
from ragcore.ingest.ingestor import Ingestor
from ragcore.lifecycle.part import Part, Parts
from ragcore.operating.calls import Call, Calls, spent_by
from ragcore.operating.health import HealthCheck, describe
from ragcore.operating.quota import Quota
from ragcore.operating.shared_quota import SharedQuota
from ragcore.operating.watchdog import Watchdog
from ragcore.protocols import Clearable, Embedder, Generator, QuotaStore, Searcher, Store
from ragcore.resilience import Policy
from ragcore.resilience.deadline import reserve
from ragcore.retrieval.options import SearchOptions, check_options, spelled_out
from ragcore.retrieval.retriever import Retriever
from ragcore.text.redacting import Redacting
from ragcore.text.redaction import Redact
from ragcore.text.tokens import estimate_tokens
from ragcore.types import (
    Answer,
    CallInfo,
    Citation,
    Degradation,
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
    check_instructions,
    check_max_tokens,
    check_question,
    check_stop,
    check_temperature,
    check_tenant,
    check_timeout,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RAG"]

# The end of a call's time that is kept for the last resort.
RESERVE_SECONDS = 0.5
RESERVE_SHARE = 0.1


# An estimate, for models that don't say what they used.
CHARACTERS_A_TOKEN = 4
# Documents in one statement, and how often it is looked whether a tenant has more by now.
DELETED_AT_ONCE = 1_000
MOST_PASSES = 100


class RAG(Part):
    """The client: one per process and event loop, shared by all requests.

    Args:
        retriever: finds the passages.
        generator: writes the answer. Where it isn't a `FallbackGenerator` that ends in quotation, quotation is added as the last resort.
        ingestor: for `add`; None: made of the retriever's embedder and store.
        settings: None: the defaults.

    Example:
        ```python
        async with ragcore.RAG.from_config(ragcore.Config.from_env()) as rag:
            answer = await rag.ask("What is my deductible?", tenant="member-42", timeout=30)
        ```

    All methods that wait raise `NotOpen` before `start` and after `aclose`, `WrongEventLoop` on another loop, `InvalidInput` for a blank tenant or
    a timeout that isn't positive, and `DeadlineExceeded` when the time is used up.
    """

    def __init__(
        self,
        *,
        retriever: Retriever,
        generator: Generator,
        ingestor: Ingestor | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._retriever = retriever
        self._given = generator
        self.settings = settings or Settings()
        self._generator = with_last_resort(generator, quote_when_overloaded=self.settings.quote_when_overloaded)
        self._strict = alone(generator)
        self._ingestor = ingestor
        self._calls = Calls(recent=self.settings.recent)
        self._redacting = Redacting()
        self._redact_with(self.settings.redact)
        self._quota = Quota(
            requests_per_minute=self.settings.requests_per_minute or None,
            tokens_per_minute=self.settings.tokens_per_minute or None,
            calls_at_once=self.settings.calls_at_once or None,
            spending_per_day=self.settings.spending_per_day,
            prices=self.settings.prices,
        )
        self._shared = _shared(self._quota, retriever.store) if self.settings.share_limits else None
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
        policies: Policies | None = None,
    ) -> Self:
        """Make a client; what is given replaces what the config would make. Synchronous, no I/O.

        Raises:
            ConfigurationError: a setting that makes no sense, or a missing extra, model or key.
        """
        policies = policies or Policies()
        embedder = embedder or make_embedder(config, policies)
        retriever = Retriever(
            store=store or make_store(config, policies, embedder),
            embedder=embedder,
            top_k=config.top_k,
            score_threshold=config.score_threshold,
            mode=config.mode,
        )
        writable = retriever.store
        ingestor = None
        if isinstance(writable, Store):
            ingestor = Ingestor(
                embedder=embedder,
                store=writable,
                chunk_tokens=config.chunk_tokens,
                overlap_tokens=config.overlap_tokens,
                embed_text=config.embed_text,
            )
        return cls(
            retriever=retriever,
            generator=generator or make_generator(config, policies),
            ingestor=ingestor,
            settings=config.settings,
        )

    @property
    def retriever(self) -> Retriever:
        """For `explore` and debug routes."""
        return self._retriever

    async def aclose(self, *, drain: float | None = None) -> None:
        """Take no new calls, wait for the running ones, close the parts that were started here. Idempotent.

        Args:
            drain: seconds that running calls get before they are cancelled; None: as set.
        """
        seconds = self.settings.drain if drain is None else drain
        if self._closing is not None:  # by another task, which may have been told to wait longer
            self._calls.hurry(seconds)
        else:
            self._drain = seconds
        await super().aclose()

    @spelled_out(AskOptions)
    async def ask(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[AskOptions],
    ) -> Answer:
        """Answer a question from the tenant's documents.

        Args:
            question: goes into the search alone, and into the prompt with the history.
            tenant: whose documents.
            options: timeout, history, instructions, max_tokens, temperature, stop, top_k, score_threshold, filter, mode, degrade, as
                `options.AskOptions` describes them.

        Returns:
            The answer; `found` is False, and the text says so, if the documents don't answer the question.

        Raises:
            InvalidInput: before anything is sent.
            StoreError: there is nothing to answer from.
            Overloaded: no room, as soon as that is known.
            EmbeddingError, GenerationError, CircuitOpen: with `degrade=False`.
        """
        check_options(options, AskOptions, "ask")
        async with self._limited("ask", tenant, options.get("timeout")) as call:
            request = self._request(options)
            retrieval = await self._retrieve(call, question, options)
            prompt = self._prompt(retrieval, request)
            generation = None if prompt is None else await self._generate(call, prompt, request)
            return self._answer(call, retrieval, prompt, generation)

    @spelled_out(AskOptions)
    def stream(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[AskOptions],
    ) -> AbstractAsyncContextManager[AnswerStream]:
        """Answer a question in pieces; arguments and errors as `ask`.

        Entering validates and retrieves, so what fails there can still become a status code. It may be entered, read and left in three tasks.

        Example:
            ```python
            async with rag.stream("And for my family?", tenant="member-42", history=answer.turns) as stream:
                async for event in stream:
                    match event:
                        case ragcore.Delta(text):
                            print(text, end="")
            ```
        """
        check_options(options, AskOptions, "stream")
        return self._stream(question, tenant, options)

    @spelled_out(RetrieveOptions)
    async def retrieve(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[RetrieveOptions],
    ) -> Retrieval:
        """The passages for a question; arguments and errors as `ask`."""
        check_options(options, RetrieveOptions, "retrieve")
        async with self._limited("retrieve", tenant, options.get("timeout")) as call:
            retrieval = await self._retrieve(call, question, options)
            self._charge(call, retrieval.usage, "")
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
        """How near the tenant's chunks are to a question; the threshold is judged, not applied. As `Retriever.similarity`."""
        check_options(options, TimedSimilarityOptions, "similarity")
        async with self._limited("similarity", tenant, options.get("timeout")) as call:
            report = await self._retriever.similarity(
                question,
                tenant=call.tenant,
                score_threshold=options.get("score_threshold"),
                filter=options.get("filter"),
            )
            call.passages = len(report.retrieval.passages)
            self._charge(call, report.retrieval.usage, "")
            return report

    async def add(
        self,
        documents: Iterable[Document | Unreadable] | AsyncIterable[Document | Unreadable],
        /,
        *,
        tenant: str | UUID,
        progress: Callable[[IngestReport], None] | None = None,
        document_timeout: float | None = None,
    ) -> IngestReport:
        """Add documents, or replace those with the same ids. As `Ingestor.add`; the seconds for each document are as set if not given."""
        ingestor = self._ingesting()
        limit = check_timeout(document_timeout, name="document_timeout") or self.settings.document_timeout
        with self._call("add", tenant, None, bounded=False) as call:
            call.stage = "write"
            report = await ingestor.add(documents, tenant=call.tenant, progress=progress, document_timeout=limit)
            call.documents = report.added + report.updated
            return report

    async def delete(self, document_ids: Iterable[str], /, *, tenant: str | UUID, timeout: float | None = None) -> int:
        """Remove documents; how many there were. Unknown ids are no error."""
        ids = check_ids(document_ids)
        with self._call("delete", tenant, timeout) as call, _store_errors("write"):
            call.stage = "write"
            call.documents = await self._store("delete").delete(ids, tenant=call.tenant)
            return call.documents

    async def delete_tenant(self, *, tenant: str | UUID, timeout: float | None = None) -> Erased:
        """Erase all that is kept of a tenant here: its documents with their chunks, its vectors in the cache, its finished calls, its counts.

        It looks again until nothing is left, so what is added meanwhile goes too.

        What stays elsewhere (dead rows until VACUUM, the WAL, backups, logs, other processes' caches) is in the page on security.

        Raises:
            StoreError: what was erased before stays erased; call it again.
        """
        with self._call("delete_tenant", tenant, timeout) as call, _store_errors("write"):
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
            vectors = embedder.clear(tenant=name) if isinstance(embedder, Clearable) else 0
            self._quota.forget(name)
            return Erased(documents, chunks, vectors, self._calls.forget(name))

    async def documents(self, *, tenant: str | UUID, timeout: float | None = None) -> Mapping[str, str]:
        """Content hash by id, of all documents that the tenant has."""
        with self._call("documents", tenant, timeout) as call, _store_errors("search"):
            call.stage = "search"
            known = await self._store("documents").hashes(None, tenant=call.tenant)
            call.documents = len(known)
            return known

    def for_tenant(self, tenant: str | UUID, /) -> TenantView:
        """The same methods with the tenant bound: cheap, one per request."""
        return TenantView(self, check_tenant(tenant))

    async def health(self) -> Health:
        """Whether the client can do its work. Never raises, never takes longer than `settings.health_timeout`, cached for a second."""
        return await self._health.check(self, self.settings.health_timeout)

    async def describe(self) -> dict[str, Any]:
        """Versions, settings, database, role, schema, counts; None for what could not be reached. Secrets are redacted."""
        return {**await describe(self, self.settings.health_timeout), "generators": self._generator.describe()}

    def stats(self) -> Stats:
        """A snapshot of policies, pools, caches and calls."""
        parts = {"embedding": self._retriever.embedder, "store": self._retriever.store, **self._generators()}
        policies = {
            name: part.policy.snapshot().to_dict()
            for name, part in parts.items()
            if isinstance(getattr(part, "policy", None), Policy)
        }
        writes = getattr(parts["store"], "write_policy", None)
        if isinstance(writes, Policy):
            policies["store writes"] = writes.snapshot().to_dict()
        pools = {"store": parts["store"].snapshot()} if hasattr(parts["store"], "snapshot") else {}
        caches = {"embedding": parts["embedding"].snapshot()} if hasattr(parts["embedding"], "snapshot") else {}
        return Stats(policies=policies, pools=pools, caches=caches, calls=self._calls.counts())

    def inflight(self) -> tuple[CallInfo, ...]:
        """Running calls, oldest first, with the stage they are in and what they wait for."""
        return self._calls.inflight()

    def recent(self) -> tuple[CallInfo, ...]:
        """The last `settings.recent` finished calls, oldest first."""
        return self._calls.recent()

    async def _open(self) -> None:
        self._calls.closed = False
        if self._watchdog is not None:
            self._watchdog.start()
        for part in (self._retriever, self._generator, self._strict):
            await self._parts.start(part)

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
    def _call(self, method: str, tenant: str | UUID, timeout: float | None, *, bounded: bool = True) -> Iterator[Call]:
        """A call from its validation to its end: within its deadline, in `inflight`, and accounted for however it ends."""
        call = self._begin(method, tenant, timeout, bounded=bounded)
        try:
            with call:
                yield call
        except BaseException as error:
            call.failed(error)
            raise
        call.finish("degraded" if call.degraded else "ok")

    @asynccontextmanager
    async def _limited(self, method: str, tenant: str | UUID, timeout: float | None) -> AsyncIterator[Call]:
        """A call that counts against its tenant's limits."""
        self._admit(tenant)
        begun: Call | None = None
        try:
            with self._call(method, tenant, timeout) as call:
                begun = call
                await self._admit_shared(call)
                yield call
        finally:
            if begun is not None:
                await self._settle(begun)

    def _begin(self, method: str, tenant: str | UUID, timeout: float | None, *, bounded: bool = True) -> Call:
        self._check_open()
        if self._calls.closed:
            raise NotOpen("the client is being closed: it takes no new calls")
        seconds = (check_timeout(timeout) or self.settings.timeout) if bounded else None
        return self._calls.begin(method, check_tenant(tenant), seconds)

    def _admit(self, tenant: str | UUID) -> None:
        """A tenant that has used up what it may is told so before anything else."""
        self._check_open()
        name = check_tenant(tenant)
        self._quota.admit(name, self._calls.running_of(name))

    async def _admit_shared(self, call: Call) -> None:
        if self._shared is not None:
            try:
                await self._shared.admit(call)
            except LimitExceeded:
                self._calls.withdraw(call)
                raise

    async def _settle(self, call: Call) -> None:
        """What is left to do when a call has ended, however it ended: a tenant that leaves before the end of its answers is charged for them as well."""
        if not call.charged and (call.written or call.embedded):
            wrote = bool(call.written) and not call.spent
            seen = self._seen(call) if wrote else Usage()
            model = name_of(self._first()) if wrote else ""
            self._charge(call, replace(seen, embedding_tokens=call.embedded), model)
        for model, usage in call.spent:
            self._charge(call, usage, model)
        if self._shared is not None:
            await self._shared.settle(call, self._owner)

    def _seen(self, call: Call) -> Usage:
        """What a call has used of a model that didn't say it, by estimate."""
        texts = () if call.prompt is None else (message["content"] for message in render(call.prompt))
        return Usage(
            prompt_tokens=sum(map(estimate_tokens, texts)),
            completion_tokens=math.ceil(call.written / CHARACTERS_A_TOKEN),
        )

    def _first(self) -> Generator:
        return self._given.generators[0] if isinstance(self._given, FallbackGenerator) else self._given

    def _charge(self, call: Call, usage: Usage, model: str) -> None:
        call.charged = True
        embedder = self._retriever.embedder
        tokens, cost = self._quota.charge(call.tenant, usage, model, "" if embedder is None else embedder.model)
        if self._shared is not None:
            self._shared.owe(call.tenant, tokens, cost)

    def limits(self, *, tenant: str | UUID) -> tuple[LimitState, ...]:
        """What is left of a tenant's limits for each minute; () where none are set."""
        return self._quota.state(check_tenant(tenant))

    def used(self) -> Mapping[tuple[str, str], UsedTokens]:
        """Tokens and cost by tenant and model, since the client was made. Sum them as you need."""
        return self._quota.used()

    def _degrade(self, options: RetrieveOptions) -> bool:
        degrade = options.get("degrade")
        return self.settings.degrade if degrade is None else degrade

    def _request(self, options: AskOptions) -> _Request:
        instructions = options.get("instructions")
        return _Request(
            history=check_history(options.get("history", ())),
            instructions=self.settings.instructions if instructions is None else check_instructions(instructions),
            max_tokens=check_max_tokens(options.get("max_tokens")),
            temperature=check_temperature(options.get("temperature")),
            stop=check_stop(options.get("stop")),
            degrade=self._degrade(options),
        )

    async def _retrieve(self, call: Call, question: str, options: RetrieveOptions) -> Retrieval:
        search: SearchOptions = {
            "top_k": options.get("top_k"),
            "score_threshold": options.get("score_threshold"),
            "filter": options.get("filter"),
            "mode": options.get("mode"),
            "degrade": self._degrade(options),
        }
        retrieval = await self._retriever.retrieve(check_question(question), tenant=call.tenant, **search)
        call.timings, call.embedded = retrieval.timings, retrieval.usage.embedding_tokens or 0
        call.degraded = bool(retrieval.degraded)
        call.passages = len(retrieval.passages)
        return retrieval

    def _prompt(self, retrieval: Retrieval, request: _Request) -> Prompt | None:
        """None where there is nothing to answer from: then no model is asked to invent something."""
        if not retrieval.passages:
            return None
        prompt = build_prompt(
            retrieval.question,
            passages=retrieval.passages,
            history=request.history,
            instructions=request.instructions,
            budget=self.settings.prompt_tokens,
            max_tokens=self.settings.max_tokens if request.max_tokens is None else request.max_tokens,
            max_tokens_from="settings" if request.max_tokens is None else "call",
            temperature=request.temperature,
            stop=request.stop,
            count_tokens=getattr(self._generator, "count_tokens", estimate_tokens),
        )
        if not prompt.passages:
            raise ConfigurationError(
                f"not even the best passage fits into the {self.settings.prompt_tokens:,} tokens of a prompt: raise prompt_tokens, "
                "or ingest with smaller chunk_tokens",
                stage="generate",
            )
        return prompt

    async def _generate(self, call: Call, prompt: Prompt, request: _Request) -> Generation:
        """The generation; with `degrade`, quotation where the generator broke, for which the last of the time is kept."""
        call.stage, call.prompt = "generate", prompt
        began = anyio.current_time()
        if not request.degrade:
            return _timed(call, began, await collect(self._told(self._strict).stream(prompt), on_piece=call.saw))
        try:
            with reserve(RESERVE_SECONDS, share=RESERVE_SHARE):
                return _timed(
                    call,
                    began,
                    await collect(self._told(self._generator).stream(prompt), on_piece=call.saw),
                )
        except (Overloaded, InvalidInput):
            raise
        except RagcoreError as error:
            emit("generator.failed", name_of(self._given), error=type(error).__name__)
            spent = spent_by(error)
            if call.written and not spent:
                spent = ((name_of(self._first()), self._seen(call)),)
            quoted = await ExtractiveGenerator().generate(prompt)
            late = isinstance(error, DeadlineExceeded)
            reason = f"{name_of(self._given)} was not done in time: {error}" if late else str(error)
            degradation = Degradation("generate", reason, EXTRACTIVE)
            return _timed(call, began, replace(quoted, degraded=(degradation,), spent=spent))

    def _answer(self, call: Call, retrieval: Retrieval, prompt: Prompt | None, generation: Generation | None) -> Answer:
        call.timings = replace(call.timings, total=call.elapsed())
        answer = Answer(
            self.settings.not_searched if _not_searched(retrieval) else self.settings.not_found,
            found=False,
            retrieval=retrieval,
            degraded=retrieval.degraded,
            timings=call.timings,
            usage=retrieval.usage,
            call_id=call.id,
        )
        if generation is None or prompt is None:
            self._charge(call, answer.usage, "")
            return answer
        degraded = (*retrieval.degraded, *generation.degraded)
        call.degraded = bool(degraded)
        usage = Usage(
            embedding_tokens=retrieval.usage.embedding_tokens,
            prompt_tokens=generation.usage.prompt_tokens,
            completion_tokens=generation.usage.completion_tokens,
        )
        used = usage
        if generation.model != EXTRACTIVE and usage.prompt_tokens is None:
            used = replace(self._seen(call), embedding_tokens=usage.embedding_tokens)
        self._charge(call, used, generation.model)
        for model, failed in generation.spent:
            self._charge(call, failed, model)
        found = bool(generation.text.strip())
        text, citations = self.settings.not_found, answer.citations
        if found:
            text, citations = (
                generation.text,
                find_citations(generation.text, prompt.passages, quotations=generation.quotations),
            )
        elif any(part.stage == "generate" and part.fallback == EXTRACTIVE for part in degraded):
            # Nobody has judged the passages: "not found" would be untrue.
            text = f"{self.settings.not_answered}\n\n{excerpt(prompt.passages[0])} [1]"
            citations = (Citation(1, prompt.passages[0], len(text) - len("[1]"), len(text)),)
        return replace(
            answer,
            text=text,
            found=found,
            citations=citations,
            degraded=degraded,
            usage=usage,
            model=generation.model,
            finish_reason=generation.finish_reason,
            complete=generation.complete and is_complete(generation.finish_reason),
            request_ids=(generation.request_id,) if generation.request_id else (),
        )

    @asynccontextmanager
    async def _stream(self, question: str, tenant: str | UUID, options: AskOptions) -> AsyncIterator[AnswerStream]:
        owner = self._check_open()
        self._admit(tenant)
        call = self._begin("stream", tenant, options.get("timeout"))
        try:
            with call:
                await self._admit_shared(call)
                request = self._request(options)
                retrieval = await self._retrieve(call, question, options)
                call.prompt = prompt = self._prompt(retrieval, request)
        except BaseException as error:
            call.failed(error)
            await self._settle(call)
            raise
        # Its line in the audit log comes at its end; what is handed out before that must not be lost with the process.
        record(
            "stream", call.tenant, by=call.actor, call_id=call.id, outcome="begun", passages=call.passages, documents=0
        )
        stream = AnswerStream(
            call=call,
            owner=owner,
            retrieval=retrieval,
            generator=self._told(self._generator if request.degrade else self._strict),
            prompt=prompt,
            finish=self._answer,
        )
        try:
            yield stream
        finally:
            try:
                await stream.aclose()
            finally:
                await self._settle(call)

    def _redact_with(self, redact: Redact | None) -> None:
        """A setting of the client holds for its parts: one that was forgotten would send what must not be sent."""
        for part in (self._retriever, self._ingestor):
            if part is None or redact is None or part.redact == redact:
                continue
            if part.redact is not None:
                raise ConfigurationError(
                    f"the {type(part).__name__} has another redact than the settings: give it the same, or none"
                )
            part.redact = redact

    def _told(self, generator: Generator) -> Generator:
        """The generator as it is spoken to: it never gets what the settings take out."""
        redact = self.settings.redact
        return generator if redact is None else RedactingGenerator(generator, redact, redacting=self._redacting)

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
        if not isinstance(store, Store):
            raise Unsupported(f"{what} needs a Store, and {type(store).__name__} is a Searcher only", stage="write")
        return store

    def _generators(self) -> dict[str, Any]:
        given = self._given.generators if isinstance(self._given, FallbackGenerator) else (self._given,)
        return {f"generation {name_of(generator)}": generator for generator in given}


@dataclass(frozen=True, slots=True)
class _Request:
    history: tuple[Turn, ...]
    instructions: str
    max_tokens: int | None
    temperature: float | None
    stop: tuple[str, ...]
    degrade: bool


def _shared(quota: Quota, store: Searcher) -> SharedQuota:
    if not isinstance(store, QuotaStore):
        raise ConfigurationError(
            f"share_limits needs a store that counts for all processes, and {type(store).__name__} has no count_calls: "
            "use PgVectorStore, or leave share_limits out"
        )
    return SharedQuota(quota, store)


def _not_searched(retrieval: Retrieval) -> bool:
    """Whether nothing was found because the documents could not be searched as they should be: then they may well have the answer."""
    empty = retrieval.empty
    return empty is not None and (bool(retrieval.degraded) or empty.code in ("not_embedded", "other_model"))


def _timed(call: Call, began: float, generation: Generation) -> Generation:
    call.timings = replace(call.timings, generate=anyio.current_time() - began)
    return generation


@contextmanager
def _store_errors(stage: str) -> Iterator[None]:
    """What a store of the user's raises comes out as `StoreError`."""
    try:
        yield
    except RagcoreError:
        raise
    except Exception as error:
        raise StoreError(f"the store raised {type(error).__name__}", dependency="store", stage=stage) from error

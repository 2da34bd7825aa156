"""The client without `await`: for Flask, scripts and synchronous Django. It may be used from any number of threads.

One event loop in one background thread serves all clients of a process. It starts at the first call, and ends with the interpreter. A client that was
started before a fork raises `NotOpen` in the child; a client that is made in the child works. The calling thread measures the time itself, so its deadline
holds even while the background loop is blocked. If a client is garbage-collected without `close`, ragcore closes it.

The client, its view and its stream are in one file, like their async counterparts: each of them refers to the others. `loop` runs the background loop.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload
from uuid import UUID

import anyio

from ragcore.blocking.loop import CLOSE_SECONDS, END_SECONDS, SPENT_SECONDS, START_SECONDS, ThreadDeadline, background
from ragcore.blocking.many import Answers, Feeder
from ragcore.client import many
from ragcore.client import rag as asynchronous
from ragcore.client import stream as streams
from ragcore.client.many import Questions, check_concurrency, check_questions
from ragcore.client.options import AnySchema, AskOptions, RetrieveOptions, TimedSimilarityOptions, TimedVectorOptions
from ragcore.config import Config, Policies, Settings
from ragcore.errors import NotOpen
from ragcore.ingest.ingestor import Ingestor
from ragcore.ingest.sources.options import IngestOptions
from ragcore.ingest.sources.source import Source
from ragcore.lifecycle.bound import inherit
from ragcore.protocols import Embedder, Found, Generator, Reranker, Searcher, Vector
from ragcore.resilience import RateLimiter
from ragcore.retrieval.options import spelled_out
from ragcore.retrieval.retriever import Retriever
from ragcore.types import (
    Answer,
    AskProgress,
    CallInfo,
    Document,
    Erased,
    Health,
    IngestReport,
    Retrieval,
    SimilarityReport,
    Stats,
    StreamEvent,
    Unreadable,
)
from ragcore.types.validation import check_ids, check_tenant, check_timeout

__all__ = ["RAG", "AnswerStream", "TenantView"]

logger: logging.Logger = logging.getLogger("ragcore")

T = TypeVar("T")
U = TypeVar("U")
D = TypeVar("D")

_clients: weakref.WeakSet[RAG] = weakref.WeakSet()


def _renew_locks() -> None:
    """Replace all locks in a forked child. If another thread held a lock at the fork, the child would never see its release."""
    background.renew_lock()
    for client in list(_clients):
        client._lock, client._starting = threading.Lock(), None
        if client._process is None and client._rag._home is not None:  # the client was starting at the fork
            client._process = -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class AnswerStream:
    """An iterator of `Retrieved`, then `Delta`s, then `Done`. See `ragcore.AnswerStream`."""

    def __init__(self, stream: streams.AnswerStream, deadline: ThreadDeadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def __iter__(self) -> Iterator[StreamEvent]:
        return self

    def __next__(self) -> StreamEvent:
        async def step() -> StreamEvent | None:
            try:
                return await self._stream.__anext__()
            except StopAsyncIteration:
                return None

        event = background.call(step, self._deadline)
        if event is None:
            raise StopIteration
        return event

    def answer(self) -> Answer:
        """Read the rest of the stream, and return the whole answer."""
        return background.call(self._stream.answer, self._deadline)


class RAG:
    """Answers questions like `ragcore.RAG`, without `await`. The first call starts it; `close` or the end of the interpreter closes it."""

    def __init__(
        self,
        *,
        retriever: Retriever,
        generator: Generator,
        ingestor: Ingestor | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._rag = asynchronous.RAG(retriever=retriever, generator=generator, ingestor=ingestor, settings=settings)
        self._prepare()

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self._process: int | None = None
        self._starting: futures.Future[None] | None = None
        self._closing = False
        self._closed = False
        _clients.add(self)
        weakref.finalize(self, background.drop, self._rag).atexit = False

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
        """Make a client from a configuration. See `ragcore.RAG.from_config`. Does no I/O."""
        made = cls.__new__(cls)
        made._rag = asynchronous.RAG.from_config(
            config, embedder=embedder, store=store, generator=generator, reranker=reranker, policies=policies
        )
        made._prepare()
        return made

    @property
    def retriever(self) -> Retriever:
        """The client's retriever. See `ragcore.RAG.retriever`."""
        return self._rag.retriever

    def start(self) -> None:
        """Start the client now instead of at the first call. Also opens a closed client again."""
        self._start(ThreadDeadline(START_SECONDS), again=True)

    def _start(self, deadline: ThreadDeadline, *, again: bool) -> None:
        with self._locked(deadline):
            if self._closing:
                raise NotOpen("the client is closing and accepts no new calls")
            if self._closed and not again:
                raise NotOpen("the client is closed: call start(), or make a new client")
            if self._process == os.getpid():
                return
            if self._process is not None:
                raise NotOpen(
                    f"the client was started before this process ({os.getpid()}) was forked: make it after the fork, or start it only in the child"
                )
            # `_starting` keeps the future of the last start, so check `done`. The start can't reset `_starting`: it may end before the future is stored here.
            if self._starting is None or self._starting.done():
                self._starting = background.submit(self._start_on_loop)
            starting = self._starting
        # If this caller stops waiting, the start continues, and later callers wait for the same start.
        background.wait(starting, deadline, starting=True)

    async def _start_on_loop(self) -> None:
        """Start the client. Runs on the background loop. All callers wait for the same start."""
        with anyio.fail_after(START_SECONDS):
            await self._rag.start()
        self._process, self._closed = os.getpid(), False
        background.opened(self._rag)

    @contextmanager
    def _locked(self, deadline: ThreadDeadline) -> Iterator[None]:
        """Hold the lock for a block. The wait is bounded, since another thread may hold the lock while it waits for a blocked loop."""
        lock = self._lock
        if not lock.acquire(timeout=deadline.seconds_to_wait()):
            raise deadline.expired()
        try:
            yield
        finally:
            lock.release()

    def close(self, *, drain: float | None = None) -> None:
        """Close the client. See `ragcore.RAG.aclose`. Calls that are made meanwhile raise `NotOpen`."""
        deadline = ThreadDeadline((self._rag.settings.drain if drain is None else drain) + CLOSE_SECONDS)
        starting = self._starting
        if starting is not None:
            with suppress(Exception):  # the caller that started it gets the error
                background.wait(starting, deadline)
        with self._locked(deadline):
            if self._process != os.getpid() or self._closing:
                return
            self._closing = True
        try:
            background.call(lambda: self._rag.aclose(drain=drain), deadline)
        finally:
            with self._lock:
                self._process, self._closing, self._closed = None, False, True
                background.closed(self._rag)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    @overload
    def ask(
        self, question: str, /, *, tenant: str | UUID, schema: type[D], **options: Unpack[AskOptions]
    ) -> Answer[D]: ...

    @overload
    def ask(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        schema: Mapping[str, object] | None = None,
        **options: Unpack[AskOptions],
    ) -> Answer: ...

    @spelled_out(AskOptions)
    def ask(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        schema: AnySchema | None = None,
        **options: Unpack[AskOptions],
    ) -> Answer:
        """Answer a question from the tenant's documents. See `ragcore.RAG.ask`."""
        return self.for_tenant(tenant).ask(question, schema=schema, **options)

    @spelled_out(AskOptions)
    def stream(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[AskOptions],
    ) -> AbstractContextManager[AnswerStream]:
        """Answer a question in pieces. See `ragcore.RAG.stream`."""
        return self.for_tenant(tenant).stream(
            question,
            **options,
        )

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
    ) -> AbstractContextManager[Answers]:
        """Answer many questions, a few at a time. See `ragcore.RAG.ask_many`. The questions are read in the calling thread, when it asks for a result."""
        return self.for_tenant(tenant).ask_many(
            questions, concurrency=concurrency, total_timeout=total_timeout, progress=progress, schema=schema, **options
        )

    @spelled_out(RetrieveOptions)
    def retrieve(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[RetrieveOptions],
    ) -> Retrieval:
        """Return the passages for a question. See `ragcore.RAG.retrieve`."""
        return self.for_tenant(tenant).retrieve(
            question,
            **options,
        )

    @spelled_out(TimedVectorOptions)
    def retrieve_by_vector(
        self,
        vector: Vector | Sequence[float],
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[TimedVectorOptions],
    ) -> Retrieval:
        """Return the passages nearest to a vector. See `ragcore.RAG.retrieve_by_vector`."""
        return self.for_tenant(tenant).retrieve_by_vector(vector, **options)

    @spelled_out(TimedSimilarityOptions)
    def similarity(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        **options: Unpack[TimedSimilarityOptions],
    ) -> SimilarityReport:
        """Report how near the tenant's chunks are to a question. See `ragcore.RAG.similarity`."""
        return self.for_tenant(tenant).similarity(question, **options)

    def add(
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
        """Add documents, or replace those with the same ids. See `ragcore.RAG.add`. `progress` is called in the background thread."""
        return self.for_tenant(tenant).add(
            documents, progress=progress, document_timeout=document_timeout, split=split, rate_limiter=rate_limiter
        )

    @spelled_out(IngestOptions)
    def ingest(
        self, *sources: str | PathLike[str] | Source, tenant: str | UUID, **options: Unpack[IngestOptions]
    ) -> IngestReport:
        """Add the documents of sources. See `ragcore.RAG.ingest`. `progress` is called in the background thread."""
        return self.for_tenant(tenant).ingest(*sources, **options)

    def delete(self, document_ids: Iterable[str], /, *, tenant: str | UUID, timeout: float | None = None) -> int:
        """Remove documents, and return how many existed. See `ragcore.RAG.delete`."""
        return self.for_tenant(tenant).delete(document_ids, timeout=timeout)

    def delete_tenant(self, *, tenant: str | UUID, timeout: float | None = None) -> Erased:
        """Erase the tenant's data. See `ragcore.RAG.delete_tenant`."""
        return self.for_tenant(tenant).delete_tenant(timeout=timeout)

    def documents(self, *, tenant: str | UUID, timeout: float | None = None) -> Mapping[str, str]:
        """Return the content hashes of the tenant's documents, by id. See `ragcore.RAG.documents`."""
        return self.for_tenant(tenant).documents(timeout=timeout)

    def chunks(
        self,
        document_id: str,
        /,
        *,
        tenant: str | UUID,
        with_vectors: bool = False,
        timeout: float | None = None,
    ) -> Found:
        """Return all chunks of a document in the order of its text. See `ragcore.RAG.chunks`."""
        return self.for_tenant(tenant).chunks(document_id, with_vectors=with_vectors, timeout=timeout)

    def chunks_by_id(
        self,
        chunk_ids: Iterable[str],
        /,
        *,
        tenant: str | UUID,
        with_vectors: bool = False,
        timeout: float | None = None,
    ) -> Found:
        """Return the chunks with these ids. See `ragcore.RAG.chunks_by_id`."""
        return self.for_tenant(tenant).chunks_by_id(chunk_ids, with_vectors=with_vectors, timeout=timeout)

    def for_tenant(self, tenant: str | UUID, /) -> TenantView:
        """Return a view with the same methods for one tenant."""
        return TenantView(self, check_tenant(tenant))

    def health(self) -> Health:
        """Check the client and its dependencies. See `ragcore.RAG.health`."""
        return self._checked(lambda rag: rag.health())

    def describe(self) -> dict[str, Any]:
        """Return versions, settings, database, role, schema and counts, without secrets. See `ragcore.RAG.describe`."""
        return self._checked(lambda rag: rag.describe())

    def stats(self) -> Stats:
        """Return a snapshot of policies, pools, caches and calls. See `ragcore.RAG.stats`."""
        return self._now(lambda rag: rag.stats())

    def inflight(self) -> tuple[CallInfo, ...]:
        """Return the running calls, oldest first. See `ragcore.RAG.inflight`."""
        return self._now(lambda rag: rag.inflight())

    def recent(self) -> tuple[CallInfo, ...]:
        """Return the last finished calls, oldest first. See `ragcore.RAG.recent`."""
        return self._now(lambda rag: rag.recent())

    def _ready(self, seconds: float | None) -> ThreadDeadline:
        """Start the client if this is its first call, and return the call's deadline. A closed client stays closed until `start`.

        Args:
            seconds: the timeout of the call; None: `Settings.timeout`.
        """
        deadline = ThreadDeadline(check_timeout(seconds) or self._rag.settings.timeout)
        self._start(deadline, again=False)
        return deadline

    def _call(self, fn: Callable[[asynchronous.RAG], Awaitable[T]], seconds: float | None) -> T:
        deadline = self._ready(seconds)
        return background.call(lambda: _within(deadline, fn(self._rag)), deadline)

    def _checked(self, fn: Callable[[asynchronous.RAG], Awaitable[T]]) -> T:
        """Run a health check. It limits its own time, which begins after the start of the client, and its result says what did not respond."""
        seconds = self._rag.settings.health_timeout
        self._ready(seconds)
        return background.call(lambda: fn(self._rag), ThreadDeadline(seconds + END_SECONDS))

    def _now(self, fn: Callable[[asynchronous.RAG], T]) -> T:
        async def run() -> T:
            return fn(self._rag)

        return background.call(run, self._ready(self._rag.settings.health_timeout))


class TenantView:
    """The methods of `RAG` for one tenant. `RAG.for_tenant` makes it."""

    __slots__ = ("_rag", "_tenant")

    def __init__(self, rag: RAG, tenant: str) -> None:
        self._rag = rag
        self._tenant = tenant

    @property
    def tenant(self) -> str:
        """The owner of the documents."""
        return self._tenant

    @overload
    def ask(self, question: str, /, *, schema: type[D], **options: Unpack[AskOptions]) -> Answer[D]: ...

    @overload
    def ask(
        self,
        question: str,
        /,
        *,
        schema: Mapping[str, object] | None = None,
        **options: Unpack[AskOptions],
    ) -> Answer: ...

    @spelled_out(AskOptions)
    def ask(
        self,
        question: str,
        /,
        *,
        schema: AnySchema | None = None,
        **options: Unpack[AskOptions],
    ) -> Answer:
        """Answer a question from the tenant's documents. See `ragcore.RAG.ask`."""
        return self._rag._call(
            lambda rag: rag.ask(question, tenant=self._tenant, schema=schema, **options),
            options.get("timeout"),
        )

    @spelled_out(AskOptions)
    def stream(
        self,
        question: str,
        /,
        **options: Unpack[AskOptions],
    ) -> AbstractContextManager[AnswerStream]:
        """Answer a question in pieces. See `ragcore.RAG.stream`."""
        return _entered(
            self._rag,
            lambda rag: rag.stream(
                question,
                tenant=self._tenant,
                **options,
            ),
            options.get("timeout"),
            AnswerStream,
            is_call=True,
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
    ) -> AbstractContextManager[Answers]:
        """Answer many questions, a few at a time. See `ragcore.RAG.ask_many`. The questions are read in the calling thread, when it asks for a result."""
        check_questions(questions)
        feeder = None
        if not isinstance(questions, AsyncIterable):
            feeder = Feeder(questions, ahead=check_concurrency(concurrency))

        def ask_many(rag: asynchronous.RAG, given: Questions) -> AbstractAsyncContextManager[many.Answers]:
            return rag.ask_many(
                given,
                tenant=self._tenant,
                concurrency=concurrency,
                total_timeout=total_timeout,
                schema=schema,
                **options,
            )

        return _entered(
            self._rag,
            lambda rag: ask_many(rag, questions) if feeder is None else feeder.feeding(partial(ask_many, rag)),
            options.get("timeout"),
            lambda answers, _: Answers(
                answers,
                feeder=feeder,
                # Each question under way ends by its own timeout, so a result arrives within it. The next question of an async iterable may come at any time.
                seconds=threading.TIMEOUT_MAX / 2
                if feeder is None
                else options.get("timeout") or self._rag._rag.settings.timeout,
                progress=progress,
            ),
            is_call=False,
        )

    @spelled_out(RetrieveOptions)
    def retrieve(
        self,
        question: str,
        /,
        **options: Unpack[RetrieveOptions],
    ) -> Retrieval:
        """Return the passages for a question. See `ragcore.RAG.retrieve`."""
        return self._rag._call(
            lambda rag: rag.retrieve(
                question,
                tenant=self._tenant,
                **options,
            ),
            options.get("timeout"),
        )

    @spelled_out(TimedVectorOptions)
    def retrieve_by_vector(
        self,
        vector: Vector | Sequence[float],
        /,
        **options: Unpack[TimedVectorOptions],
    ) -> Retrieval:
        """Return the passages nearest to a vector. See `ragcore.RAG.retrieve_by_vector`."""
        return self._rag._call(
            lambda rag: rag.retrieve_by_vector(vector, tenant=self._tenant, **options),
            options.get("timeout"),
        )

    @spelled_out(TimedSimilarityOptions)
    def similarity(
        self,
        question: str,
        /,
        **options: Unpack[TimedSimilarityOptions],
    ) -> SimilarityReport:
        """Report how near the tenant's chunks are to a question. See `ragcore.RAG.similarity`."""
        return self._rag._call(
            lambda rag: rag.similarity(question, tenant=self._tenant, **options),
            options.get("timeout"),
        )

    def add(
        self,
        documents: Iterable[Document | Unreadable] | AsyncIterable[Document | Unreadable],
        /,
        *,
        progress: Callable[[IngestReport], None] | None = None,
        document_timeout: float | None = None,
        split: bool = True,
        rate_limiter: RateLimiter | None = None,
    ) -> IngestReport:
        """Add documents, or replace those with the same ids. See `ragcore.RAG.add`. `progress` is called in the background thread.

        A generator is read in the calling thread, a few documents ahead, so that a slow generator doesn't block other calls. If adding fails, the error is
        raised after the generator has yielded its next document.
        """

        def add(
            given: Iterable[Document | Unreadable] | AsyncIterable[Document | Unreadable],
        ) -> Awaitable[IngestReport]:
            return self._rag._rag.add(
                given,
                tenant=self._tenant,
                progress=progress,
                document_timeout=document_timeout,
                split=split,
                rate_limiter=rate_limiter,
            )

        if isinstance(documents, AsyncIterable | Collection) or not isinstance(documents, Iterable):
            self._rag._ready(None)
            return background.call(lambda: add(documents), ThreadDeadline(threading.TIMEOUT_MAX / 2))
        self._rag._ready(None)
        return background.feed(documents, add)

    @spelled_out(IngestOptions)
    def ingest(self, *sources: str | PathLike[str] | Source, **options: Unpack[IngestOptions]) -> IngestReport:
        """Add the documents of sources. See `ragcore.RAG.ingest`. `progress` is called in the background thread."""
        self._rag._ready(None)
        return background.call(
            lambda: self._rag._rag.ingest(*sources, tenant=self._tenant, **options),
            ThreadDeadline(threading.TIMEOUT_MAX / 2),
        )

    def delete(self, document_ids: Iterable[str], /, *, timeout: float | None = None) -> int:
        """Remove documents, and return how many existed. See `ragcore.RAG.delete`."""
        ids = check_ids(document_ids)  # in the calling thread: a database query must not run on the background loop
        return self._rag._call(lambda rag: rag.delete(ids, tenant=self._tenant, timeout=timeout), timeout)

    def delete_tenant(self, *, timeout: float | None = None) -> Erased:
        """Erase the tenant's data. See `ragcore.RAG.delete_tenant`."""
        return self._rag._call(lambda rag: rag.delete_tenant(tenant=self._tenant, timeout=timeout), timeout)

    def documents(self, *, timeout: float | None = None) -> Mapping[str, str]:
        """Return the content hashes of the tenant's documents, by id. See `ragcore.RAG.documents`."""
        return self._rag._call(lambda rag: rag.documents(tenant=self._tenant, timeout=timeout), timeout)

    def chunks(self, document_id: str, /, *, with_vectors: bool = False, timeout: float | None = None) -> Found:
        """Return all chunks of a document in the order of its text. See `ragcore.RAG.chunks`."""
        return self._rag._call(
            lambda rag: rag.chunks(document_id, tenant=self._tenant, with_vectors=with_vectors, timeout=timeout),
            timeout,
        )

    def chunks_by_id(
        self, chunk_ids: Iterable[str], /, *, with_vectors: bool = False, timeout: float | None = None
    ) -> Found:
        """Return the chunks with these ids. See `ragcore.RAG.chunks_by_id`."""
        wanted = check_ids(chunk_ids)  # in the calling thread, as in `delete`
        return self._rag._call(
            lambda rag: rag.chunks_by_id(wanted, tenant=self._tenant, with_vectors=with_vectors, timeout=timeout),
            timeout,
        )


async def _within(deadline: ThreadDeadline, awaitable: Awaitable[T]) -> T:
    """Await a call. If the start of the client has used a part of the call's time, the call gets only the rest."""
    spent = deadline.elapsed() > SPENT_SECONDS
    with inherit(anyio.current_time() + deadline.remaining()) if spent else nullcontext():
        return await awaitable


@contextmanager
def _entered(
    client: RAG,
    make: Callable[[asynchronous.RAG], AbstractAsyncContextManager[T]],
    timeout: float | None,
    wrap: Callable[[T, ThreadDeadline], U],
    *,
    is_call: bool,
) -> Iterator[U]:
    """Enter an async block on the background loop, and yield a wrapper of what it yields.

    Args:
        is_call: whether the block is one call, which the timeout limits.
    """
    deadline = client._ready(timeout)
    process = os.getpid()
    context = make(client._rag)
    enter = (lambda: _within(deadline, context.__aenter__())) if is_call else context.__aenter__
    entered = background.call(enter, deadline)

    def leave() -> None:
        # If the loop has ended with the interpreter, there is nothing to close. In a forked child, the stream belongs to the parent.
        if not background.ended and os.getpid() == process:
            background.call(lambda: context.__aexit__(None, None, None), ThreadDeadline(END_SECONDS))

    try:
        yield wrap(entered, deadline)
    except BaseException:
        try:
            leave()
        except Exception:  # this error must not hide the error that is being raised
            logger.exception("error while closing a stream")
        raise
    leave()

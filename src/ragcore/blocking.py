"""The client without await: for Flask, scripts and sync Django, from as many threads as there are.

One event loop in one background thread serves all clients of a process. It starts at the first call, and ends with the interpreter. A child
that was forked from a process whose client had started gets `NotOpen`; one that is made in the child starts afresh.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import anyio
from anyio.from_thread import BlockingPortal

from ragcore import rag as asynchronous
from ragcore import stream as streams
from ragcore.config import Config, Policies, Settings
from ragcore.errors import NotOpen
from ragcore.filters import Filter
from ragcore.ingest.ingestor import Ingestor
from ragcore.protocols import Embedder, Generator, Searcher
from ragcore.retriever import Retriever
from ragcore.types import (
    Answer,
    CallInfo,
    Document,
    Health,
    IngestReport,
    Mode,
    Retrieval,
    SimilarityReport,
    Stats,
    StreamEvent,
    Turn,
    Unreadable,
)
from ragcore.validation import check_tenant

__all__ = ["RAG", "AnswerStream", "TenantView"]

T = TypeVar("T")
U = TypeVar("U")

START_SECONDS = 30.0
# Of what is read in the calling thread.
AHEAD = 64
END_SECONDS = 2.0


class _Loop:
    """The background thread with its event loop; one per process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._portal: BlockingPortal | None = None
        self._process = 0
        self._open: list[RAG] = []
        self.ended = False

    def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function there; interrupted, it is cancelled there."""
        future = self.portal().start_task_soon(fn)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def feed(self, items: Iterable[U], fn: Callable[[AsyncIterable[U]], Awaitable[T]]) -> T:
        """Run a coroutine function there over items that are read here. That it has failed is seen when the next item has been read."""
        portal = self.portal()
        sender, receiver = anyio.create_memory_object_stream[U](AHEAD)
        ended = threading.Event()

        async def run() -> T:
            try:
                async with receiver:
                    return await fn(receiver)
            finally:
                sender.close()  # on its loop
                ended.set()

        future = portal.start_task_soon(run)
        try:
            for item in items:
                try:
                    portal.call(sender.send, item)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):  # it has ended, and says why
                    break
            else:
                portal.call(sender.aclose)
            return future.result()
        except BaseException:
            future.cancel()
            ended.wait(END_SECONDS)
            raise

    def portal(self) -> BlockingPortal:
        with self._lock:
            if self.ended:  # a thread that is started now would never run
                raise NotOpen("the interpreter is ending: it takes no new calls")
            if self._portal is None or self._process != os.getpid():
                self._portal, self._process, self._open = self._start(), os.getpid(), []
            return self._portal

    def renew_lock(self) -> None:
        """After a fork."""
        self._lock = threading.Lock()

    def opened(self, client: RAG) -> None:
        self._open.append(client)

    def closed(self, client: RAG) -> None:
        if client in self._open:
            self._open.remove(client)

    def close(self) -> None:
        """At interpreter end: close what is open, within bounds; the thread is a daemon."""
        portal = self._portal if self._process == os.getpid() else None
        try:
            for client in list(self._open) if portal else ():
                client.close(drain=0.0)
        finally:
            self.ended = True
        if portal is not None:
            portal.start_task_soon(portal.stop)

    @staticmethod
    def _start() -> BlockingPortal:
        started: list[BlockingPortal] = []
        ready = threading.Event()

        async def main() -> None:
            async with BlockingPortal() as portal:
                started.append(portal)
                ready.set()
                await portal.sleep_until_stopped()

        threading.Thread(target=anyio.run, args=(main,), name="ragcore blocking", daemon=True).start()
        if not ready.wait(START_SECONDS):
            raise NotOpen(f"the background event loop did not start within {START_SECONDS:g} s")
        return started[0]


_loop = _Loop()
_clients: weakref.WeakSet[RAG] = weakref.WeakSet()
atexit.register(_loop.close)


def _renew_locks() -> None:
    """In a forked child: a lock that another thread held at the fork would never be given back."""
    _loop.renew_lock()
    for client in list(_clients):
        client._lock = threading.Lock()
        if client._process is None and client._rag._home is not None:  # it was being started at the fork
            client._process = -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class AnswerStream:
    """An iterator of `Retrieved`, then `Delta`s, then `Done`. As `ragcore.AnswerStream`."""

    def __init__(self, stream: streams.AnswerStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[StreamEvent]:
        return self

    def __next__(self) -> StreamEvent:
        async def step() -> StreamEvent | None:
            try:
                return await self._stream.__anext__()
            except StopAsyncIteration:
                return None

        event = _loop.call(step)
        if event is None:
            raise StopIteration
        return event

    def answer(self) -> Answer:
        """Read what is left, and the whole answer."""
        return _loop.call(self._stream.answer)


class RAG:
    """`ragcore.RAG` without await. It starts itself at the first call in a process, and is closed at interpreter end or by `close`."""

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
        self._closing = False
        self._closed = False
        _clients.add(self)

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
        """As `ragcore.RAG.from_config`: no I/O."""
        made = cls.__new__(cls)
        made._rag = asynchronous.RAG.from_config(
            config, embedder=embedder, store=store, generator=generator, policies=policies
        )
        made._prepare()
        return made

    @property
    def retriever(self) -> Retriever:
        """As `ragcore.RAG.retriever`."""
        return self._rag.retriever

    def start(self) -> None:
        """Start now rather than at the first call."""
        self._start(again=True)

    def _start(self, *, again: bool) -> None:
        with self._lock:
            if self._closing:
                raise NotOpen("the client is being closed: it takes no new calls")
            if self._closed and not again:
                raise NotOpen("the client is closed: call start(), or make another one")
            if self._process is None:
                _loop.call(self._rag.start)
                self._process, self._closed = os.getpid(), False
                _loop.opened(self)
            elif self._process != os.getpid():
                raise NotOpen(
                    f"the client was started before this process {os.getpid()} was forked: make it after the fork, or start it in the child only"
                )

    def close(self, *, drain: float | None = None) -> None:
        """As `ragcore.RAG.aclose`; calls that come meanwhile get `NotOpen`."""
        with self._lock:
            if self._process != os.getpid() or self._closing:
                return
            self._closing = True
        try:
            _loop.call(lambda: self._rag.aclose(drain=drain))
        finally:
            with self._lock:
                self._process, self._closing, self._closed = None, False, True
                _loop.closed(self)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    def ask(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        timeout: float | None = None,
        history: Sequence[Turn | Mapping[str, object]] = (),
        instructions: str | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        mode: Mode | None = None,
        degrade: bool | None = None,
    ) -> Answer:
        """As `ragcore.RAG.ask`."""
        return self.for_tenant(tenant).ask(
            question,
            timeout=timeout,
            history=history,
            instructions=instructions,
            top_k=top_k,
            score_threshold=score_threshold,
            filter=filter,
            mode=mode,
            degrade=degrade,
        )

    def stream(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        timeout: float | None = None,
        history: Sequence[Turn | Mapping[str, object]] = (),
        instructions: str | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        mode: Mode | None = None,
        degrade: bool | None = None,
    ) -> AbstractContextManager[AnswerStream]:
        """As `ragcore.RAG.stream`."""
        return self.for_tenant(tenant).stream(
            question,
            timeout=timeout,
            history=history,
            instructions=instructions,
            top_k=top_k,
            score_threshold=score_threshold,
            filter=filter,
            mode=mode,
            degrade=degrade,
        )

    def retrieve(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        timeout: float | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        mode: Mode | None = None,
        degrade: bool | None = None,
    ) -> Retrieval:
        """As `ragcore.RAG.retrieve`."""
        return self.for_tenant(tenant).retrieve(
            question,
            timeout=timeout,
            top_k=top_k,
            score_threshold=score_threshold,
            filter=filter,
            mode=mode,
            degrade=degrade,
        )

    def similarity(
        self,
        question: str,
        /,
        *,
        tenant: str | UUID,
        timeout: float | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
    ) -> SimilarityReport:
        """As `ragcore.RAG.similarity`."""
        return self.for_tenant(tenant).similarity(
            question, timeout=timeout, score_threshold=score_threshold, filter=filter
        )

    def add(
        self,
        documents: Iterable[Document | Unreadable] | AsyncIterable[Document | Unreadable],
        /,
        *,
        tenant: str | UUID,
        progress: Callable[[IngestReport], None] | None = None,
        document_timeout: float | None = None,
    ) -> IngestReport:
        """As `ragcore.RAG.add`; `progress` is called on the background thread."""
        return self.for_tenant(tenant).add(documents, progress=progress, document_timeout=document_timeout)

    def delete(self, document_ids: Iterable[str], /, *, tenant: str | UUID, timeout: float | None = None) -> int:
        """As `ragcore.RAG.delete`."""
        return self.for_tenant(tenant).delete(document_ids, timeout=timeout)

    def documents(self, *, tenant: str | UUID, timeout: float | None = None) -> Mapping[str, str]:
        """As `ragcore.RAG.documents`."""
        return self.for_tenant(tenant).documents(timeout=timeout)

    def for_tenant(self, tenant: str | UUID, /) -> TenantView:
        """The same methods with the tenant bound."""
        return TenantView(self, check_tenant(tenant))

    def health(self) -> Health:
        """As `ragcore.RAG.health`."""
        return self._call(lambda rag: rag.health())

    def describe(self) -> dict[str, Any]:
        """As `ragcore.RAG.describe`."""
        return self._call(lambda rag: rag.describe())

    def stats(self) -> Stats:
        """As `ragcore.RAG.stats`."""
        return self._now(lambda rag: rag.stats())

    def inflight(self) -> tuple[CallInfo, ...]:
        """As `ragcore.RAG.inflight`."""
        return self._now(lambda rag: rag.inflight())

    def recent(self) -> tuple[CallInfo, ...]:
        """As `ragcore.RAG.recent`."""
        return self._now(lambda rag: rag.recent())

    def _ready(self) -> None:
        """Started, by the first call if need be; closed stays closed until `start`."""
        self._start(again=False)

    def _call(self, fn: Callable[[asynchronous.RAG], Awaitable[T]]) -> T:
        self._ready()
        return _loop.call(lambda: fn(self._rag))

    def _now(self, fn: Callable[[asynchronous.RAG], T]) -> T:
        async def run() -> T:
            return fn(self._rag)

        self._ready()
        return _loop.call(run)


class TenantView:
    """`RAG`'s methods with the tenant bound. Made by `RAG.for_tenant`."""

    __slots__ = ("_rag", "_tenant")

    def __init__(self, rag: RAG, tenant: str) -> None:
        self._rag = rag
        self._tenant = tenant

    @property
    def tenant(self) -> str:
        """Whose documents."""
        return self._tenant

    def ask(
        self,
        question: str,
        /,
        *,
        timeout: float | None = None,
        history: Sequence[Turn | Mapping[str, object]] = (),
        instructions: str | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        mode: Mode | None = None,
        degrade: bool | None = None,
    ) -> Answer:
        """As `ragcore.RAG.ask`."""
        return self._rag._call(
            lambda rag: rag.ask(
                question,
                tenant=self._tenant,
                timeout=timeout,
                history=history,
                instructions=instructions,
                top_k=top_k,
                score_threshold=score_threshold,
                filter=filter,
                mode=mode,
                degrade=degrade,
            )
        )

    def stream(
        self,
        question: str,
        /,
        *,
        timeout: float | None = None,
        history: Sequence[Turn | Mapping[str, object]] = (),
        instructions: str | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        mode: Mode | None = None,
        degrade: bool | None = None,
    ) -> AbstractContextManager[AnswerStream]:
        """As `ragcore.RAG.stream`."""
        return _entered(
            self._rag,
            lambda rag: rag.stream(
                question,
                tenant=self._tenant,
                timeout=timeout,
                history=history,
                instructions=instructions,
                top_k=top_k,
                score_threshold=score_threshold,
                filter=filter,
                mode=mode,
                degrade=degrade,
            ),
        )

    def retrieve(
        self,
        question: str,
        /,
        *,
        timeout: float | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        mode: Mode | None = None,
        degrade: bool | None = None,
    ) -> Retrieval:
        """As `ragcore.RAG.retrieve`."""
        return self._rag._call(
            lambda rag: rag.retrieve(
                question,
                tenant=self._tenant,
                timeout=timeout,
                top_k=top_k,
                score_threshold=score_threshold,
                filter=filter,
                mode=mode,
                degrade=degrade,
            )
        )

    def similarity(
        self,
        question: str,
        /,
        *,
        timeout: float | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
    ) -> SimilarityReport:
        """As `ragcore.RAG.similarity`."""
        return self._rag._call(
            lambda rag: rag.similarity(
                question, tenant=self._tenant, timeout=timeout, score_threshold=score_threshold, filter=filter
            )
        )

    def add(
        self,
        documents: Iterable[Document | Unreadable] | AsyncIterable[Document | Unreadable],
        /,
        *,
        progress: Callable[[IngestReport], None] | None = None,
        document_timeout: float | None = None,
    ) -> IngestReport:
        """As `ragcore.RAG.add`. A generator is read in the calling thread, a few documents ahead, so that a slow one holds up nobody else; that the
        rest has failed is seen when its next document has been read."""

        def add(
            given: Iterable[Document | Unreadable] | AsyncIterable[Document | Unreadable],
        ) -> Awaitable[IngestReport]:
            return self._rag._rag.add(given, tenant=self._tenant, progress=progress, document_timeout=document_timeout)

        if isinstance(documents, AsyncIterable | Collection) or not isinstance(documents, Iterable):
            return self._rag._call(lambda _: add(documents))
        self._rag._ready()
        return _loop.feed(documents, add)

    def delete(self, document_ids: Iterable[str], /, *, timeout: float | None = None) -> int:
        """As `ragcore.RAG.delete`."""
        return self._rag._call(lambda rag: rag.delete(document_ids, tenant=self._tenant, timeout=timeout))

    def documents(self, *, timeout: float | None = None) -> Mapping[str, str]:
        """As `ragcore.RAG.documents`."""
        return self._rag._call(lambda rag: rag.documents(tenant=self._tenant, timeout=timeout))


@contextmanager
def _entered(
    client: RAG, make: Callable[[asynchronous.RAG], AbstractAsyncContextManager[streams.AnswerStream]]
) -> Iterator[AnswerStream]:
    client._ready()
    process = os.getpid()
    context = make(client._rag)
    stream = _loop.call(context.__aenter__)
    try:
        yield AnswerStream(stream)
    finally:
        # Left half-read until the interpreter ends, or in a forked child, whose stream it is not: there is nothing to leave.
        if not _loop.ended and os.getpid() == process:
            _loop.call(lambda: context.__aexit__(None, None, None))

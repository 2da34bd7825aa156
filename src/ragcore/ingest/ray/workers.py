"""The actors: one reads files, the other cuts, embeds and writes documents. Each has an event loop of its own for its client."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from ragcore.compat.extras import require
from ragcore.errors import ConfigurationError, RagcoreError
from ragcore.ingest.batches import BATCH_CHARACTERS, BATCH_DOCUMENTS
from ragcore.ingest.files import File
from ragcore.ingest.options import READ_SECONDS, reading
from ragcore.ingest.ray.coordinator import SharedRateLimiter, digest
from ragcore.ingest.reading import SAME_ID, read_files
from ragcore.resilience import RateLimiter
from ragcore.types import Document, IngestReport, Unreadable

__all__ = [
    "Adder",
    "Adding",
    "Limits",
    "Loop",
    "Opened",
    "Outcome",
    "ReadOptions",
    "Reader",
    "table",
    "unpacked",
    "values",
]

logger: logging.Logger = logging.getLogger("ragcore.ingest")

T = TypeVar("T")
C = TypeVar("C")

# A worker that dies once may have been killed from outside. If more workers die with the same block, its documents are added one by one. A document with which
# MOST_DEATHS workers died is reported as failed. Otherwise Ray would repeat it forever.
BLOCK_DEATHS, MOST_DEATHS = 1, 3


class Adding(Protocol):
    """The part of a client that an ingest needs. `RAG` has it."""

    async def add(
        self,
        documents: Iterable[Document | Unreadable],
        /,
        *,
        tenant: str,
        document_timeout: float | None = None,
        rate_limiter: RateLimiter | None = None,
    ) -> IngestReport:
        """Add documents. See `Ingestor.add`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of the embedding provider, for all workers together; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """The options of reading, as in `ingest.read`. `expires_at` applies to documents without an expiry of their own."""

    read_timeout: float = READ_SECONDS
    whole_pages: bool = False
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a block: its result, or the error that ends the run."""

    result: Any = None
    error: RagcoreError | None = None


def table(*values: object) -> Any:
    """Return an Arrow table with a row for each value. Values are pickled, so that Arrow does not guess their types."""
    pyarrow = require("pyarrow", extra="ray", purpose="ingestion on Ray")
    return pyarrow.table({"value": pyarrow.array([pickle.dumps(value) for value in values], pyarrow.large_binary())})


def values(block: Any) -> list[Any]:
    """Return the values of a table that `table` has made."""
    return [unpacked(row) for row in block["value"].to_pylist()]


def unpacked(row: bytes) -> Any:
    """Return the value of a row."""
    return pickle.loads(row)  # noqa: S301  # it comes from our own workers, as everything that Ray passes between processes


async def _next(batches: AsyncGenerator[list[Document | Unreadable], None]) -> list[Document | Unreadable] | None:
    return await anext(batches, None)


class Loop:
    """An event loop on a thread of its own. `close` closes the components that were opened on it.

    anyio's `start_blocking_portal` is not used: it is a generator, which Python also closes when the interpreter ends. It would then wait for its thread,
    which no longer runs, so the process would never end.
    """

    def __init__(self, name: str) -> None:
        self._stack = ExitStack()
        started: Future[BlockingPortal] = Future()
        self._thread = Thread(target=_serve, args=(started,), name=name, daemon=True)
        self._thread.start()
        self.portal: BlockingPortal = started.result()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the loop, and return its result."""
        result: T = self.portal.call(work)
        return result

    def enter(self, manager: AbstractAsyncContextManager[C]) -> C:
        """Open a component on the loop, and return it."""
        return self._stack.enter_context(self.portal.wrap_async_context_manager(manager))

    def close(self) -> None:
        """Close the components and the loop. Does nothing while the interpreter ends, because the thread has ended already."""
        if sys.is_finalizing():
            return
        try:
            self._stack.close()
        finally:
            with suppress(RuntimeError):  # the loop is stopped already
                self.portal.call(self.portal.stop)
            self._thread.join()


def _serve(started: Future[BlockingPortal]) -> None:
    async def serve() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    try:
        anyio.run(serve)
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)  # for example, no file descriptor is left for an event loop


# Marks the end of a file.
END = Unreadable("", "the end of a file")


class Reader:
    """Reads files. Each row of its tables has the documents of a batch."""

    def __init__(self, options: ReadOptions, coordinator: Any) -> None:
        self._options = options
        self._coordinator = coordinator
        self._loop = Loop("reading")
        self._sender, self._receiver = anyio.create_memory_object_stream[File | Document | Unreadable](2)
        # One iterator reads all files, so that they share one reading process.
        self._documents = read_files(
            self._received(),
            reading(read_timeout=options.read_timeout, processes=1, whole_pages=options.whole_pages),
        )

    def __call__(self, block: Any) -> Iterator[Any]:
        """Read the files of a block. A batch is yielded as soon as it is full, so that memory holds one batch of a large file of lines."""
        for file in values(block):
            batches = self._batches(file)
            while batch := self._loop.run(partial(_next, batches)):
                yield table(batch)

    async def _received(self) -> AsyncGenerator[File | Document | Unreadable, None]:
        async for file in self._receiver:
            yield file

    async def _batches(self, file: File) -> AsyncGenerator[list[Document | Unreadable], None]:
        batch: list[Document | Unreadable] = []
        origins: list[bytes] = []
        size = number = 0
        await self._sender.send(file)
        await self._sender.send(END)
        async for document in self._documents:
            if document is END:
                break
            length = len(document.text) if isinstance(document, Document) else 0
            if batch and (len(batch) == BATCH_DOCUMENTS or size + length > BATCH_CHARACTERS):
                yield await self._claimed(batch, origins)
                batch, origins, size = [], [], 0
            batch.append(self._expiring(document))
            origins.append(digest(str(file.path), number))
            size += length
            number += 1
        if batch:
            yield await self._claimed(batch, origins)

    def _expiring(self, document: Document | Unreadable) -> Document | Unreadable:
        expires_at = self._options.expires_at
        if expires_at is None or isinstance(document, Unreadable) or document.expires_at is not None:
            return document
        return replace(document, expires_at=expires_at)

    async def _claimed(self, batch: list[Document | Unreadable], origins: list[bytes]) -> list[Document | Unreadable]:
        """Replace documents whose id another document of this run has, as `ingest.read` does."""
        claims = [(digest(document.id), origin) for document, origin in zip(batch, origins, strict=True)]
        free = await self._coordinator.claim.remote(claims)
        return [
            document
            if ours or isinstance(document, Unreadable)
            else Unreadable(document.id, SAME_ID, source=document.source)
            for document, ours in zip(batch, free, strict=True)
        ]

    async def _close(self) -> None:
        await self._sender.aclose()
        await self._receiver.aclose()
        await self._documents.aclose()

    def __del__(self) -> None:
        # Ray deletes the object before the process ends. No error may be raised here. The end of the process releases everything else.
        try:
            if not sys.is_finalizing():
                self._loop.run(self._close)
            self._loop.close()
        except Exception:
            logger.exception("closing a worker failed")


class Opened(Generic[C]):
    """A worker with a component that is opened on its loop. If that fails, each block has the error as its outcome.

    Args:
        opens: makes the component. It runs in the worker, so it may read the worker's environment.
    """

    # The name of the user's argument that makes the component, for messages.
    argument = "client"

    def __init__(self, opens: Callable[[], AbstractAsyncContextManager[C]]) -> None:
        self._loop = Loop(type(self).__name__)
        self._opened: C | None = None
        self._error: RagcoreError | None = None
        try:
            self._opened = self._loop.enter(opens())
        except RagcoreError as error:
            # Not raised: Ray would start the actor again, and a wrong configuration would fail again.
            self._error = error
        except Exception as error:  # the user's own function may raise anything, and its text may have a secret
            self._error = ConfigurationError(
                f"the function `{self.argument}` failed in a worker ({type(error).__name__}): call it on that machine to see why"
            )

    def outcome(self, work: Callable[[C], Coroutine[Any, Any, Any]]) -> Outcome:
        """Run a coroutine function with the component, and return its result or its error."""
        if self._opened is None:
            return Outcome(error=self._error)
        opened = self._opened
        try:
            return Outcome(self._loop.run(lambda: work(opened)))
        except RagcoreError as error:
            return Outcome(error=error)

    def __del__(self) -> None:
        try:
            self._loop.close()
        except Exception:
            logger.exception("closing a worker failed")


class Adder(Opened[Adding]):
    """Cuts, embeds and writes documents with the steps of the local engine. The outcome of a block is a list of reports, or the error that ends the run."""

    def __init__(
        self,
        opens: Callable[[], AbstractAsyncContextManager[Adding]],
        tenant: str,
        document_timeout: float | None,
        limits: Limits,
        coordinator: Any,
    ) -> None:
        super().__init__(opens)
        self._tenant = tenant
        self._document_timeout = document_timeout
        self._coordinator = coordinator
        self._limiter = SharedRateLimiter(
            coordinator,
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
        )

    def __call__(self, block: Any) -> Any:
        """Add the documents of a block."""
        documents = [document for batch in values(block) for document in batch]
        return table(self.outcome(lambda client: self._add(client, documents)))

    async def _add(self, client: Adding, documents: list[Document | Unreadable]) -> list[IngestReport]:
        name = digest("block", [document.id for document in documents])
        if await self._coordinator.begin.remote(name) <= BLOCK_DEATHS + 1:
            reports = [await self._report(client, documents)]
            await self._coordinator.end.remote([name])
            return reports
        # Workers die while they add this block. One of the documents may be the cause, so add them one by one.
        reports = []
        for document in documents:
            alone = digest("document", document.id)
            if await self._coordinator.begin.remote(alone) > MOST_DEATHS:
                reason = f"{MOST_DEATHS} workers died while they added it"
                reports.append(await self._report(client, [Unreadable(document.id, reason, source=document.source)]))
                continue
            reports.append(await self._report(client, [document]))
            await self._coordinator.end.remote([alone])
        await self._coordinator.end.remote([name])
        return reports

    async def _report(self, client: Adding, documents: list[Document | Unreadable]) -> IngestReport:
        return await client.add(
            documents, tenant=self._tenant, document_timeout=self._document_timeout, rate_limiter=self._limiter
        )

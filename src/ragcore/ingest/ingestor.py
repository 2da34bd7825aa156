"""Adds documents to a store: read → chunk → embed → write. Every step has a time limit."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TypeVar
from uuid import UUID

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ragcore.compat.ability import offers
from ragcore.errors import (
    ConfigurationError,
    DeadlineExceeded,
    DependencyError,
    InvalidInput,
    RagcoreError,
    StoreError,
    Unsupported,
)
from ragcore.ingest.batches import BATCH_CHARACTERS, batches
from ragcore.ingest.chunking import Cut, cut, uncut
from ragcore.ingest.content_hash import content_hash
from ragcore.ingest.embedding import embed_texts, turns_of
from ragcore.ingest.failures import blames_a_document, one_of
from ragcore.ingest.options import CHUNK_TOKENS, OVERLAP_TOKENS, check_chunking
from ragcore.ingest.records import Records
from ragcore.ingest.run import Run
from ragcore.ingest.step_limit import StepLimit
from ragcore.lifecycle.closing import closing
from ragcore.protocols import EmbeddedDocument, Embedder, EmbedTextRecorder, Expiring, Store, Vector
from ragcore.resilience import RateLimiter
from ragcore.resilience.policy import policy_of
from ragcore.resilience.threads import Threads
from ragcore.store.embed_text import DEFAULT_EMBED_TEXT
from ragcore.text.redaction import Redact, redacted
from ragcore.types import Document, EmbedText, IngestReport, Unreadable
from ragcore.types.validation import check_tenant, check_timeout

__all__ = ["Ingestor"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("ragcore.ingest")

# If the exact tokenizer is still loading, the first `add` waits for it for this many seconds.
TOKENIZER_SECONDS = 5.0
# The number of chunks that are written in one step. A larger document gets more steps, because the index takes one or two milliseconds for each chunk.
WRITTEN_IN_A_STEP = 2_000
# A longer text is cut on a thread, because counting its tokens would block the event loop.
INLINE_CHARACTERS = 20_000
DOCUMENT_TIMEOUT = 120.0


class Ingestor:
    """Puts documents into a store.

    A chunk is a part of the document's text, character for character: line ends, tabs and invisible characters stay. White space before the first chunk,
    after the last one and between two of them belongs to no chunk. A document without any other character is reported as failed. A text with a NUL
    character or a lone surrogate can't be stored, so `Document` refuses it.

    Args:
        embedder: makes the vectors. Chunks are measured in its tokens.
        store: keeps the documents. A document that is already stored with the same content is not written again.
        chunk_tokens: largest number of tokens that are embedded for a chunk, limited to the embedder's `max_tokens`. Default 200.
        overlap_tokens: largest number of tokens that neighbouring chunks of a section share, limited to half of `chunk_tokens`. Default 40.
        embed_text: the text that is embedded for a chunk: "text"; "title+text", with the document's title first; "headings+text", with the title and the
            headings first. The collection records the value. After a change, documents that are added again are embedded again. None: the recorded value:
            "headings+text" for a new collection, "text" for one of an earlier release.
        concurrency: number of batches of documents that are processed at once. Default 4.
        redact: removes private data from texts before they go to the embedder; the store keeps the full texts. After a change, documents that are added
            again are embedded again. None: no redaction.

    Embedder and store must be open.
    """

    chunk_tokens: int
    overlap_tokens: int

    def __init__(
        self,
        *,
        embedder: Embedder,
        store: Store,
        chunk_tokens: int = CHUNK_TOKENS,
        overlap_tokens: int = OVERLAP_TOKENS,
        embed_text: EmbedText | None = None,
        concurrency: int = 4,
        redact: Redact | None = None,
    ) -> None:
        check_chunking(chunk_tokens, overlap_tokens, embed_text)
        if concurrency < 1:
            raise ConfigurationError(f"concurrency is {concurrency}: it must be at least 1")
        self.embedder = embedder
        self.store = store
        self.chunk_tokens = min(chunk_tokens, embedder.max_tokens)
        self.overlap_tokens = min(overlap_tokens, self.chunk_tokens // 2)
        self._given_embed_text = embed_text
        self.embed_text: EmbedText | None = None
        """The text that is embedded for a chunk; None until the first `add`, which reads it from the store."""
        self._is_prepared = False
        self.concurrency = concurrency
        self.redact = redact
        self._threads = Threads(1, name="chunking")
        self._turns = turns_of(embedder)

    async def add(
        self,
        documents: Iterable[Document | Unreadable] | AsyncIterable[Document | Unreadable],
        /,
        *,
        tenant: str | UUID,
        progress: Callable[[IngestReport], None] | None = None,
        document_timeout: float | None = None,
        split: bool = True,
        dry_run: bool = False,
        rate_limiter: RateLimiter | None = None,
    ) -> IngestReport:
        """Add documents, or replace those with the same ids.

        Of several documents with the same id, the last one is stored, and `report.warnings` names it.

        Documents that can't be added are listed in `report.failed`; the others are added. A document is stored completely or not at all. Unchanged
        documents are not embedded again, so a second run after an error adds only the missing documents.

        Args:
            documents: a list, or an async iterable such as `ingest.read(…)`; a plain iterable is read on the event loop.
            tenant: the owner of the documents.
            progress: called on the event loop with the report so far.
            document_timeout: seconds for each step of a document: cutting it, embedding 256 of its chunks, writing 2,000 of them. Documents in the same
                batch share the step's time. The wait for an embedder's thread does not count. None: 120.
            split: whether to cut the documents into chunks. False: each document is one chunk, whose text comes back as it was given, with white space at
                both ends. A document with more tokens than the embedder accepts fails.
            dry_run: whether to embed and store nothing. The report counts the documents that a real run would add and update, and no chunks.
            rate_limiter: limits the requests and tokens a minute that go to the embedder. Ingests with the same limiter share its limits. A pause that the
                embedder asks for, as with a 429, pauses the limiter. The wait for the limiter does not count for `document_timeout`. None: no limit.

        Raises:
            EmbeddingError, StoreError, CircuitOpen: a dependency failed, and retries did not help. Documents that were written before stay stored.
            Unsupported: a document has `expires_at`, but the store can't expire documents.
            DeadlineExceeded: a step took longer than `document_timeout`.

        Exceptions from `documents` and `progress` are raised unchanged.
        """
        limit = check_timeout(document_timeout, name="document_timeout") or DOCUMENT_TIMEOUT
        run = Run(check_tenant(tenant), limit, progress, split=split, dry_run=dry_run, rate_limiter=rate_limiter)
        await self._prepare(dry_run=dry_run)
        try:
            with nullcontext() if rate_limiter is None else rate_limiter.following(policy_of(self.embedder)):
                await self._run(run, batches(documents, run))
        except BaseExceptionGroup as group:
            raise one_of(group) from None
        return run.report()

    async def settings_key(self) -> str:
        """Return a hash of the settings that decide how a document is stored. While it is the same, unchanged contents need no new vectors."""
        await self._prepare(dry_run=True)
        return self._content_hash(Document("settings", "settings"), split=True)

    async def _prepare(self, *, dry_run: bool) -> None:
        """Prepare the first `add`: read or record `embed_text`, and wait for the exact tokenizer, so that no chunk is larger than its limit."""
        if self._is_prepared:
            return
        wait = getattr(self.embedder, "wait_for_tokenizer", None)
        if wait is not None:
            await self._threads.run(lambda: wait(TOKENIZER_SECONDS))
        wanted = self._given_embed_text
        if not offers(self.store, EmbedTextRecorder):
            self.embed_text, self._is_prepared = wanted or DEFAULT_EMBED_TEXT, True
            return
        recorded = await _stored(self.store.recorded_embed_text())
        if wanted not in (None, recorded) and not dry_run:
            if recorded is not None:
                logger.warning(
                    "ingest.embed_text: changed from %r to %r for this collection: a document is embedded again when it is added again",
                    recorded,
                    wanted,
                )
            await _stored(self.store.record_embed_text(wanted))
        self.embed_text, self._is_prepared = wanted or recorded or DEFAULT_EMBED_TEXT, not dry_run

    async def _run(self, run: Run, found: AsyncIterator[list[Document]]) -> None:
        sender, receiver = anyio.create_memory_object_stream[list[Document]](0)
        async with anyio.create_task_group() as group:
            for _ in range(self.concurrency):
                group.start_soon(self._work, run, receiver.clone())
            receiver.close()
            await _feed(sender, found)

    async def _work(self, run: Run, receiver: MemoryObjectReceiveStream[list[Document]]) -> None:
        async with receiver:
            async for batch in receiver:
                try:
                    await self._add(run, batch)
                finally:
                    run.finish()

    async def _add(self, run: Run, batch: Sequence[Document]) -> None:
        """Add a batch. If it fails because of one of its documents, add them one by one."""
        try:
            await self._add_whole(run, batch)
        except (InvalidInput, DependencyError) as error:
            if not blames_a_document(error):
                raise
            if len(batch) == 1:
                run.fail(Unreadable(batch[0].id, str(error), source=batch[0].source))
                return
            for document in batch:
                await self._add(run, [document])

    async def _add_whole(self, run: Run, batch: Sequence[Document]) -> None:
        """Add the whole batch. Each step has its own time limit, and a large document has more steps."""
        limit = StepLimit(run.document_timeout)
        if not offers(self.store, Expiring) and any(document.expires_at is not None for document in batch):
            raise Unsupported(
                f"a document has expires_at, but {type(self.store).__name__} has no expire() to delete it: remove expires_at, or use another store",
                stage="write",
            )
        with limit.step():
            records = await _stored(Records.of(self.store, batch, tenant=run.tenant))
            refused, batch = list(records.refused(batch)), records.own(batch)
            hashes = await self._content_hashes(batch, split=run.split)
            known = await _stored(self.store.hashes(list(hashes), tenant=run.tenant))
        changed = [document for document in batch if known.get(document.id) != hashes[document.id]]
        changed = await self._without_carried_over(changed, known, split=run.split)
        ids = {document.id for document in changed}
        unchanged = [document for document in batch if document.id not in ids]
        if run.dry_run:
            run.would_write(refused, changed, known, unchanged=len(unchanged))
            return
        embedded, tokens, empty = await self._embed(changed, hashes, limit, run)
        if embedded:
            steps = math.ceil(sum(len(one.chunks) for one in embedded) / WRITTEN_IN_A_STEP)
            with limit.step(steps):
                await _stored(self.store.upsert(embedded, tenant=run.tenant))
        with limit.step():
            await _stored(records.update(unchanged))
        # Report these documents only now: if the batch fails, its documents are added again one by one and would be reported twice.
        for unreadable in (*refused, *empty):
            run.fail(unreadable)
        run.take_over(records.taken([*unchanged, *(one.document for one in embedded)]))
        run.done(embedded, known, unchanged=len(unchanged), tokens=tokens)

    async def _embed(
        self, documents: Sequence[Document], hashes: Mapping[str, str], limit: StepLimit, run: Run
    ) -> tuple[list[EmbeddedDocument], int, list[Unreadable]]:
        """Return the documents with vectors, the number of their tokens, and the documents that can't be embedded."""
        empty: list[Unreadable] = []
        cuts: list[tuple[Document, Cut]] = []
        for document in documents:
            try:
                with limit.step():
                    made = await self._cut(document, split=run.split)
            except DeadlineExceeded as error:
                if not limit.is_own(error):
                    raise
                # The thread is still busy with this document, so the next documents get a new one.
                self._threads = Threads(1, name="chunking")
                empty.append(
                    Unreadable(
                        document.id, f"it could not be cut within {error.budget:g} s: split it", source=document.source
                    )
                )
                continue
            if not made.chunks:
                empty.append(Unreadable(document.id, "it has no text", source=document.source))
                continue
            if not run.split and made.tokens > self.embedder.max_tokens:
                reason = f"it has {made.tokens:,} tokens, and {self.embedder.model} takes at most {self.embedder.max_tokens:,}: cut it first"
                empty.append(Unreadable(document.id, reason, source=document.source))
                continue
            cuts.append((document, made))
        vectors = await self._vectors(
            await self._redacted([text for _, made in cuts for text in made.texts], limit), limit, run.rate_limiter
        )
        embedded, start = [], 0
        for document, made in cuts:
            stop = start + len(made.chunks)
            embedded.append(
                EmbeddedDocument(
                    document=document,
                    content_hash=hashes[document.id],
                    model=self.embedder.model,
                    chunks=made.chunks,
                    vectors=vectors[start:stop],
                )
            )
            start = stop
        return embedded, sum(made.tokens for _, made in cuts), empty

    async def _cut(self, document: Document, *, split: bool) -> Cut:
        embed_text = self.embed_text or DEFAULT_EMBED_TEXT

        def work() -> Cut:
            return (cut if split else uncut)(
                document,
                count_tokens=self.embedder.count_tokens,
                chunk_tokens=self.chunk_tokens,
                overlap_tokens=self.overlap_tokens,
                embed_text=embed_text,
            )

        if len(document.text) <= INLINE_CHARACTERS:
            await anyio.lowlevel.checkpoint()
            return work()
        return await self._threads.run(work)

    async def _redacted(self, texts: Sequence[str], limit: StepLimit) -> Sequence[str]:
        """Redact on a thread, because the user's function may take long."""
        if self.redact is None:
            return texts
        redact = self.redact
        with limit.step():
            return await self._threads.run(lambda: [redacted(redact, text) for text in texts])

    async def _vectors(self, texts: Sequence[str], limit: StepLimit, rate_limiter: RateLimiter | None) -> Vector:
        return await embed_texts(self.embedder, texts, limit, turns=self._turns, rate_limiter=rate_limiter)

    async def _content_hashes(self, batch: Sequence[Document], *, split: bool) -> dict[str, str]:
        def work() -> dict[str, str]:
            return {document.id: self._content_hash(document, split=split) for document in batch}

        if sum(len(document.text) for document in batch) <= BATCH_CHARACTERS:
            return work()
        return await self._threads.run(work)

    async def _without_carried_over(
        self, documents: list[Document], known: Mapping[str, str], *, split: bool
    ) -> list[Document]:
        """Leave out unchanged documents that `reembed` copied from another collection. Their stored hash was computed with that collection's model."""
        models = [model for model in getattr(self.store, "former_models", ()) if model != self.embedder.model]
        candidates = [document for document in documents if document.id in known] if models else []

        def work() -> set[str]:
            return {
                document.id
                for document in candidates
                if any(known[document.id] == self._content_hash(document, model, split=split) for model in models)
            }

        if not candidates:
            return documents
        unchanged = await self._threads.run(work)
        return [document for document in documents if document.id not in unchanged]

    def _content_hash(self, document: Document, model: str | None = None, *, split: bool) -> str:
        return content_hash(
            document,
            model=model or self.embedder.model,
            document_prefix=getattr(self.embedder, "document_prefix", ""),
            chunk_tokens=self.chunk_tokens,
            overlap_tokens=self.overlap_tokens,
            embed_text=self.embed_text,
            redact=self.redact,
            split=split,
        )


async def _feed(sender: MemoryObjectSendStream[list[Document]], found: AsyncIterator[list[Document]]) -> None:
    async with sender, closing(found):
        async for batch in found:
            await sender.send(batch)


async def _stored(operation: Awaitable[T]) -> T:
    """Raise errors of the user's store as `StoreError`."""
    try:
        return await operation
    except RagcoreError:
        raise
    except Exception as error:
        raise StoreError(f"the store raised {type(error).__name__}", dependency="store", stage="write") from error

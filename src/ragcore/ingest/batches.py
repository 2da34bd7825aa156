"""Groups documents into batches, which are embedded and written together."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TypeAlias

import anyio.lowlevel

from ragcore.errors import InvalidInput
from ragcore.ingest.run import Run
from ragcore.lifecycle.closing import closing
from ragcore.types import Document, Unreadable

__all__ = ["BATCH_CHARACTERS", "batches"]

BATCH_DOCUMENTS = 64
BATCH_CHARACTERS = 150_000

Documents: TypeAlias = Iterable[Document | Unreadable] | AsyncIterable[Document | Unreadable]


async def batches(documents: Documents, run: Run) -> AsyncIterator[list[Document]]:
    """Yield documents in batches of at most 64 documents and 150,000 characters. A document with more characters is a batch of its own.

    Of several documents with the same id, the last one must be stored. So a document replaces an earlier one of its batch, and waits until an earlier one
    of another batch is stored.

    Args:
        documents: an iterable or async iterable; it is closed at the end.
        run: records the documents that can't be added.

    Raises:
        InvalidInput: `documents` is not iterable, or contains an object of another type.
    """
    batch: list[Document] = []
    size = 0
    found = _iterate(documents)
    async with closing(found):
        async for document in found:
            if isinstance(document, Unreadable):
                run.fail(document)
                continue
            if not isinstance(document, Document):
                raise InvalidInput(
                    f"documents contains a {type(document).__name__}: each item must be a Document or an Unreadable"
                )
            if not run.begin(document):
                earlier = next((one for one in batch if one.id == document.id), None)
                if earlier is None:
                    await run.all_finished()
                else:
                    batch.remove(earlier)
                    size -= len(earlier.text)
            if batch and (len(batch) == BATCH_DOCUMENTS or size + len(document.text) > BATCH_CHARACTERS):
                run.unfinished += 1
                yield batch
                batch, size = [], 0
            batch.append(document)
            size += len(document.text)
    if batch:
        run.unfinished += 1
        yield batch


async def _iterate(documents: Documents) -> AsyncIterator[Document | Unreadable]:
    if isinstance(documents, str | bytes | Document | Unreadable):
        raise InvalidInput(f"documents is a single {type(documents).__name__}: pass a list")
    if not isinstance(documents, Iterable | AsyncIterable):
        raise InvalidInput(
            f"documents is of type {type(documents).__name__}: it must be an iterable or an async iterable"
        )
    if isinstance(documents, AsyncIterable):
        items = aiter(documents)
        async with closing(items):
            async for document in items:
                yield document
    else:
        # `closing` closes a generator; a list has nothing to close.
        async with closing(iter(documents)) as iterator:
            for document in iterator:
                await anyio.lowlevel.checkpoint()
                yield document

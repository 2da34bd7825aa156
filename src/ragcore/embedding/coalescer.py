"""Concurrent single questions as one request, without making anyone wait.

No timer: a question that comes while nothing is under way goes out at once, after the event loop has gone round once, so that
questions of the same moment go with it. While requests are under way the next batch forms. Equal texts are sent once.

Source: text-embeddings-inference's queue and DataLoader's batch scheduling, both without a linger time.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

import anyio
from anyio.lowlevel import checkpoint

from ragcore.errors import EmbeddingError, NotOpen, Overloaded
from ragcore.protocols import Vector
from ragcore.resilience.deadline import expires_at, inherit
from ragcore.resilience.owner import Owner
from ragcore.resilience.single_flight import own_copy

__all__ = ["Coalescer"]

# Requests at once: one would make the second questioner wait for the first's whole round trip, many would leave nothing to share.
MOST_REQUESTS = 4
MOST_TEXTS = 64
MOST_WAITING = 1_024


class Coalescer:
    """Shares requests between callers that each want one text embedded.

    Args:
        send: embeds a list of texts: (n, dimension), one request.
    """

    def __init__(self, send: Callable[[Sequence[str]], Awaitable[Vector]]) -> None:
        self._send = send
        self._waiting: dict[str, _Item] = {}
        self._requests = 0
        self.asked = 0
        self.sent = 0
        self.closed = False

    async def embed(self, owner: Owner, text: str) -> Vector:
        """(dimension,) for one text. Cancelled, it leaves; a request that nobody waits for is cancelled too."""
        if self.closed:
            raise NotOpen("the embedder is being closed", stage="embed")
        self.asked += 1
        item = self._waiting.get(text)
        if item is None and len(self._waiting) >= MOST_WAITING:
            raise Overloaded(
                f"{len(self._waiting):,} questions wait to be embedded, which is all that may: try again later",
                dependency="embedding",
                stage="embed",
                retry_after=1.0,
            )
        if item is None:
            if self._requests == 0 or (self._requests < MOST_REQUESTS and not self._waiting):
                owner.spawn(self._serve, name="embedding")
                self._requests += 1
            item = self._waiting[text] = _Item(text)
        item.join(expires_at())
        try:
            await item.done.wait()
        finally:
            self._leave(item)
        return item.result()

    def _leave(self, item: _Item) -> None:
        item.waiting -= 1
        if item.waiting == 0 and not item.done.is_set():
            if self._waiting.get(item.text) is item:
                del self._waiting[item.text]
            if item.batch is not None and all(other.waiting == 0 for other in item.batch.items):
                item.batch.scope.cancel()

    async def _serve(self) -> None:
        """Send batches until nothing waits."""
        try:
            await checkpoint()
            while self._waiting:
                await self._request(self._take())
        finally:
            self._requests = max(0, self._requests - 1)
            if self._requests == 0:  # with some left only where this was cancelled
                self._give_up()

    def close(self) -> None:
        """Tell those who wait that nothing comes any more; requests under way end with their owner."""
        self.closed = True
        self._requests = 0
        self._give_up()

    def open(self) -> None:
        """Take questions again."""
        self.closed = False

    def _give_up(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for item in waiting.values():
            item.done.set()

    def _take(self) -> _Batch:
        texts = list(self._waiting)[:MOST_TEXTS]
        return _Batch([self._waiting.pop(text) for text in texts])

    async def _request(self, batch: _Batch) -> None:
        self.sent += 1
        when = max(item.when for item in batch.items)
        try:
            with batch.scope, inherit(None if math.isinf(when) else when):
                vectors = await self._send([item.text for item in batch.items])
                for item, vector in zip(batch.items, vectors, strict=True):
                    item.vector = vector
        except Exception as error:  # delivered to those who wait
            for item in batch.items:
                item.error = error
        finally:
            for item in batch.items:
                item.done.set()


class _Item:
    __slots__ = ("batch", "done", "error", "text", "vector", "waiting", "when")

    def __init__(self, text: str) -> None:
        self.text = text
        self.waiting = 0
        self.when = -math.inf
        self.done = anyio.Event()
        self.batch: _Batch | None = None
        self.vector: Vector | None = None
        self.error: Exception | None = None

    def join(self, when: float) -> None:
        self.waiting += 1
        self.when = max(self.when, when)

    def result(self) -> Vector:
        if self.error is not None:
            raise own_copy(self.error)
        if self.vector is None:
            raise EmbeddingError("the shared embedding request was cancelled", dependency="embedding", stage="embed")
        return self.vector


class _Batch:
    __slots__ = ("items", "scope")

    def __init__(self, items: list[_Item]) -> None:
        self.items = items
        self.scope = anyio.CancelScope()
        for item in items:
            item.batch = self

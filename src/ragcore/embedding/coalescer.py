"""Concurrent single questions as one request, without making anyone wait.

No timer: a question that comes while nothing is under way goes out at once, after the event loop has gone round once, so that
questions of the same moment go with it. While requests are under way the next batch forms, from all flows in turn. Equal texts are sent once.

Source: text-embeddings-inference's queue and DataLoader's batch scheduling, both without a linger time.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

import anyio
from anyio.lowlevel import checkpoint

from ragcore.errors import EmbeddingError, NotOpen, Overloaded
from ragcore.lifecycle.bound import expires_at, inherit
from ragcore.lifecycle.owner import Owner
from ragcore.protocols import Vector
from ragcore.resilience.flow import current_flow, flow
from ragcore.resilience.patience import in_line, patience_in_force
from ragcore.resilience.single_flight import own_copy

__all__ = ["Coalescer"]

# Requests at once: one would make the second questioner wait for the first's whole round trip, many would leave nothing to share.
MOST_REQUESTS = 4
MOST_TEXTS = 64
MOST_WAITING = 1_024


class Coalescer:
    """Shares requests between callers that each want one text embedded.

    Invariant: a text that waits stands once in `_waiting`, and in the queue of each flow that asked for it. It is taken out of all of them in one step,
    when a batch takes it, or when nobody waits for it any more. As long as something waits, one of at most `MOST_REQUESTS` tasks is under way to take it.

    Where a request of several flows fails, it is sent again in halves, so that one flow's text doesn't fail the others; so each flow's failures are its
    own in the end.

    Args:
        send: embeds a list of texts: (n, dimension), one request. Told whether the texts are of several flows: then it should neither be retried nor
            counted against the dependency, since that is found out here.
        served: told the flows that one request has served, and when it began.
    """

    closed: bool
    sent: int
    asked: int

    def __init__(
        self,
        send: Callable[[Sequence[str], bool], Awaitable[Vector]],
        served: Callable[[Sequence[str], float], None] | None = None,
    ) -> None:
        self._send = send
        self._served = served
        self._waiting: dict[str, _Item] = {}
        self._flows: dict[str, dict[str, _Item]] = {}  # the same by flow, the one served longest ago first
        self._requests = 0
        self.asked = 0
        self.sent = 0
        self.closed = False

    async def embed(self, owner: Owner, text: str) -> Vector:
        """(dimension,) for one text. Cancelled, it leaves; a request that nobody waits for is cancelled too."""
        if self.closed:
            raise NotOpen("the embedder is being closed", stage="embed")
        self.asked += 1
        name = current_flow.get()
        item = self._waiting.get(text)
        if item is None:
            if len(self._waiting) >= MOST_WAITING:
                self._make_room(name)
            # A second task only for the first text that waits: those that come after it should go with it, not each with a task of its own.
            if self._requests == 0 or (self._requests < MOST_REQUESTS and not self._waiting):
                owner.spawn(self._serve, name="embedding")
                self._requests += (
                    1  # here and not in the task, which begins later: two questions of one moment must not start two
                )
            item = self._waiting[text] = _Item(text, name)
        # In each of its flows' queues: it goes out with whichever comes first.
        texts = self._flows.setdefault(name, {})
        if text not in texts:
            texts[text] = item
            item.claims += 1
        with _Line(item) as line:
            item.join(expires_at(), line)
            try:
                await item.done.wait()
            finally:
                self._leave(item, line)
        return item.result()

    def _make_room(self, name: str) -> None:
        """For a question of this flow: the newest of the flow that has most waiting is refused, if that one has more than this. A text that another flow
        waits for as well stays.
        """
        most = max(self._flows, key=lambda other: len(self._flows[other]))
        error = Overloaded(
            f"the embedder is overloaded: {len(self._waiting):,} questions are waiting and the queue is full; try again later",
            dependency="embedding",
            stage="embed",
            retry_after=1.0,
        )
        item = next((one for one in reversed(self._flows[most].values()) if one.claims == 1), None)
        if item is None or len(self._flows[most]) <= len(self._flows.get(name, {})) + 1:
            raise error
        self._remove(item)
        item.error = error
        item.done.set()

    def _leave(self, item: _Item, line: _Line) -> None:
        item.waiting -= 1
        # Only the last who leaves takes the text, or the request, with it: the others have paid for their wait.
        if item.waiting == 0 and not item.done.is_set():
            if self._waiting.get(item.text) is item:
                self._remove(item)
            batch = item.batch
            if batch is not None and all(other.waiting == 0 for other in batch.items):
                # Said before the cancellation: whoever sends it sees that, and must tell a black hole from callers who have left.
                batch.ran_out = line.patience is not None and line.patience.has_run_out(anyio.current_time())
                batch.scope.cancel()

    def _remove(self, item: _Item) -> None:
        del self._waiting[item.text]
        for name in [name for name, texts in self._flows.items() if texts.get(item.text) is item]:
            del self._flows[name][item.text]
            if not self._flows[name]:
                del self._flows[name]

    async def _serve(self) -> None:
        """Send batches until nothing waits."""
        try:
            await checkpoint()  # all questions of this round of the event loop are in before the first batch is taken
            while self._waiting:
                await self._request(self._take())
        finally:
            self._requests = max(0, self._requests - 1)  # `close` has set it to 0
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
        self._flows.clear()
        for item in waiting.values():
            item.done.set()

    def _take(self) -> _Batch:
        """One text of each flow in turn, until the batch is full."""
        items: list[_Item] = []
        while self._flows and len(items) < MOST_TEXTS:
            name = next(iter(self._flows))
            texts = self._flows.pop(name)
            item = texts[next(iter(texts))]
            self._flows[name] = texts  # at the end: its next turn comes after all others'
            self._remove(item)
            items.append(item)
        return _Batch(items)

    async def _request(self, batch: _Batch) -> None:
        # The latest deadline: who has less time leaves by himself, and must not take the others' request with him.
        when = max(item.when for item in batch.items)
        for item in batch.items:
            item.is_sent()
        token = patience_in_force.set(batch)
        try:
            with batch.scope, inherit(None if math.isinf(when) else when):
                await self._deliver(batch.items)
        finally:
            patience_in_force.reset(token)
            # Also where this was cancelled: a text without a vector and without an error says so to those who wait.
            for item in batch.items:
                item.done.set()

    async def _deliver(self, items: Sequence[_Item]) -> None:
        """Send texts, and hand out what came; where they are of several flows and fail, in halves."""
        flows = list(dict.fromkeys(item.flow for item in items))
        self.sent += 1
        began = anyio.current_time()
        try:
            # A request of several flows is nobody's: a breaker must not take its failure for one of them.
            with flow(flows[0] if len(flows) == 1 else ""):
                vectors = await self._send([item.text for item in items], len(flows) > 1)
            for item, vector in zip(items, vectors, strict=True):
                item.vector = vector
                item.done.set()
        except Exception as error:  # delivered to those who wait
            if len(flows) == 1 or not _may_be_one_flows(error):
                for item in items:
                    item.error = error
                    item.done.set()
                return
        else:
            if self._served is not None and len(flows) > 1:
                self._served(flows, began)
            return
        # One after the other: halves at once would double the requests just when the server refuses some.
        first = set(flows[: len(flows) // 2])
        await self._deliver([item for item in items if item.flow in first])
        await self._deliver([item for item in items if item.flow not in first])


def _may_be_one_flows(error: Exception) -> bool:
    """Whether the server answered, and one of the texts may be what it could not bear. After a timeout there is no time to find out."""
    return isinstance(error, EmbeddingError) and error.attempts > 0 and not isinstance(error.__cause__, TimeoutError)


class _Item:
    """A text, and who waits for its vector.

    Invariant: `done` is set once, after `vector` or `error`; neither, and it was cancelled.
    """

    __slots__ = ("batch", "claims", "done", "error", "flow", "lines", "text", "vector", "waiting", "when")

    def __init__(self, text: str, flow: str) -> None:
        self.text = text
        self.flow = flow
        self.waiting = 0
        self.claims = 0  # flows that wait for it
        self.when = -math.inf
        self.done = anyio.Event()
        self.batch: _Batch | None = None
        self.vector: Vector | None = None
        self.error: Exception | None = None
        self.lines: list[_Line] = []

    def join(self, when: float, line: _Line) -> None:
        self.waiting += 1
        self.when = max(self.when, when)
        self.lines.append(line)

    def is_sent(self) -> None:
        """From now on it is the embedder that is waited for."""
        for line in self.lines:
            line.end()  # the wait in our own queue is over: the limits on the embedder's silence run on

    def result(self) -> Vector:
        if self.error is not None:
            raise own_copy(self.error)  # each gets one of its own, or their tracebacks would grow into each other
        if self.vector is None:
            raise EmbeddingError("the shared embedding request was cancelled", dependency="embedding", stage="embed")
        return self.vector


class _Line:
    """A caller's wait until its text is sent, in which no limit of the embedder's runs."""

    __slots__ = ("_item", "_waiting", "patience")

    def __init__(self, item: _Item) -> None:
        self._item = item
        self._waiting = in_line()
        self.patience = patience_in_force.get()

    def __enter__(self) -> Self:
        self._waiting.__enter__()
        return self

    def begin(self) -> None:
        self._waiting.__enter__()

    def end(self) -> None:
        self._waiting.__exit__()

    def __exit__(self, *exc: object) -> None:
        self.end()
        self._item.lines.remove(self)


class _Batch:
    """Texts of one request. To whoever sends it, it is the patience of all who wait for it."""

    __slots__ = ("items", "ran_out", "scope")

    def __init__(self, items: list[_Item]) -> None:
        self.items = items
        self.ran_out = False
        self.scope = anyio.CancelScope()
        for item in items:
            item.batch = self

    @property
    def until(self) -> float:
        return max((line.patience.until for line in self._lines() if line.patience is not None), default=math.inf)

    @property
    def place_by(self) -> float:
        return math.inf

    def pause(self) -> None:
        """The request waits for a place: so do all who wait for it."""
        for line in self._lines():
            line.begin()

    def resume(self) -> None:
        for line in self._lines():
            line.end()

    def heard(self) -> None:
        """A vector comes whole or not at all."""

    def has_run_out(self, now: float) -> bool:
        """Whether the last of those who waited had none left."""
        return self.ran_out

    def _lines(self) -> list[_Line]:
        return [line for item in self.items for line in item.lines]

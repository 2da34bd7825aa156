"""Joins concurrent questions into one request, without a delay.

There is no timer. While fewer than four requests are running, a question is sent after one iteration of the event loop, together with the questions of the
same iteration. Otherwise it waits until a request ends, and the next batch takes questions from all flows in turn. Equal texts are sent once.

Source: the queue of text-embeddings-inference and the batch scheduling of DataLoader. Neither waits for further texts.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Self

import anyio
from anyio.lowlevel import checkpoint

from ragcore.errors import DeadlineExceeded, EmbeddingError, NotOpen, Overloaded
from ragcore.lifecycle.bound import expires_at, inherit, yield_to_scope
from ragcore.lifecycle.operations import Operation, begin, current
from ragcore.lifecycle.owner import Owner
from ragcore.lifecycle.stages import following_all, listener
from ragcore.protocols import Vector
from ragcore.resilience.flow import current_flow, flow
from ragcore.resilience.patience import in_line, patience_in_force
from ragcore.resilience.single_flight import own_copy

__all__ = ["Coalescer"]

# Number of concurrent requests. If it were 1, the second caller would wait for the whole request of the first. If it were large, callers would rarely share a
# request.
MOST_REQUESTS = 4
MOST_TEXTS = 64
MOST_WAITING = 1_024


class Coalescer:
    """Shares requests between callers. Each caller wants one text embedded.

    Invariant: a waiting text is once in `_waiting`, and in the queue of each flow that asked for it. It is removed from all of them in one step, when a batch
    takes it or when its last caller leaves. As long as a text waits, at least one of the tasks that send requests is running. There are at most
    `MOST_REQUESTS` of these tasks.

    If a request for several flows fails, its texts are sent again in halves, so that the text of one flow doesn't make the calls of other flows fail. In the
    end, each flow gets only the failures of its own texts.

    Args:
        send: embeds a list of texts with one request and returns (n, dimension). Its second argument says whether the texts are of several flows. If so, it
            must neither retry nor count the failure against the dependency: the coalescer sends the texts again.
        served: called with the flows of a successful shared request, and the time at which it began.
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
        # The waiting texts by flow. The flow that was served longest ago comes first.
        self._flows: dict[str, dict[str, _Item]] = {}
        self._requests = 0
        self.asked = 0
        self.sent = 0
        self.closed = False

    async def embed(self, owner: Owner, text: str) -> Vector:
        """Return the vector of one text, (dimension,). When the last caller of a request is cancelled, the request is cancelled as well."""
        if self.closed:
            raise NotOpen("the embedder is being closed", stage="embed")
        self.asked += 1
        name = current_flow.get()
        item = self._waiting.get(text)
        if item is None:
            if len(self._waiting) >= MOST_WAITING:
                self._make_room(name)
            # Start another task only for the first text that waits, because later texts join its batch.
            if self._requests == 0 or (self._requests < MOST_REQUESTS and not self._waiting):
                owner.spawn(self._serve, name="embedding")
                # Count the task here, because it begins later: two questions at the same time must not start two tasks.
                self._requests += 1
            item = self._waiting[text] = _Item(text, name)
        # A text is in the queue of each of its flows. It is sent when the first of these flows has its turn.
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
        if isinstance(item.error, DeadlineExceeded):
            await yield_to_scope()
        return item.result()

    def _make_room(self, name: str) -> None:
        """Make room for a question of flow `name`: refuse the newest question of the flow with the most waiting questions.

        If no other flow has more questions than this one, raise `Overloaded`. A text is not refused if another flow waits for it as well.
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
        # When the last caller of a text leaves, it removes the text. If then no text of the request has a caller, it also cancels the request.
        if item.waiting == 0 and not item.done.is_set():
            if self._waiting.get(item.text) is item:
                self._remove(item)
            batch = item.batch
            if batch is not None and all(other.waiting == 0 for other in batch.items):
                # Set before the cancellation: the sender must distinguish a server that does not respond from callers that have left.
                batch.ran_out = line.patience is not None and line.patience.has_run_out(anyio.current_time())
                batch.scope.cancel()

    def _remove(self, item: _Item) -> None:
        del self._waiting[item.text]
        for name in [name for name, texts in self._flows.items() if texts.get(item.text) is item]:
            del self._flows[name][item.text]
            if not self._flows[name]:
                del self._flows[name]

    async def _serve(self) -> None:
        """Send batches until no text waits."""
        try:
            # All questions of this iteration of the event loop are queued before the first batch is taken.
            await checkpoint()
            while self._waiting:
                await self._request(self._take())
        finally:
            self._requests = max(0, self._requests - 1)  # `close` has set it to 0
            if self._requests == 0:  # if texts are left now, this task was cancelled
                self._give_up()

    def close(self) -> None:
        """End the wait of all callers with an error. Running requests end with their owner."""
        self.closed = True
        self._requests = 0
        self._give_up()

    def open(self) -> None:
        """Accept questions again."""
        self.closed = False

    def _give_up(self) -> None:
        waiting, self._waiting = self._waiting, {}
        self._flows.clear()
        for item in waiting.values():
            item.done.set()

    def _take(self) -> _Batch:
        """Take one text of each flow in turn, until the batch is full."""
        items: list[_Item] = []
        while self._flows and len(items) < MOST_TEXTS:
            name = next(iter(self._flows))
            texts = self._flows.pop(name)
            item = texts[next(iter(texts))]
            self._flows[name] = texts  # move it to the end, so that all other flows have their turn first
            self._remove(item)
            items.append(item)
        return _Batch(items)

    async def _request(self, batch: _Batch) -> None:
        # Use the latest deadline of all callers: a caller with less time leaves, and must not end the request of the others.
        when = max(item.when for item in batch.items)
        for item in batch.items:
            item.mark_sent()
        token = patience_in_force.set(batch)
        try:
            with batch.scope, inherit(None if math.isinf(when) else when):
                await self._deliver(batch.items)
        finally:
            patience_in_force.reset(token)
            # This also runs after a cancellation. Then a text has neither a vector nor an error, which tells its callers that the request was cancelled.
            for item in batch.items:
                item.done.set()

    async def _deliver(self, items: Sequence[_Item]) -> None:
        """Send texts and hand out their vectors. If a request for several flows fails, send its texts again in halves."""
        flows = list(dict.fromkeys(item.flow for item in items))
        self.sent += 1
        began = anyio.current_time()
        try:
            # A request for several flows belongs to no flow: a breaker must not count its failure for one of them.
            with flow(flows[0] if len(flows) == 1 else ""), _reported(items):
                vectors = await self._send([item.text for item in items], len(flows) > 1)
            for item, vector in zip(items, vectors, strict=True):
                item.vector = vector
                item.done.set()
        except Exception as error:  # each caller gets the error
            if len(flows) == 1 or not _may_be_caused_by_one_flow(error):
                for item in items:
                    item.error = error
                    item.done.set()
                return
        else:
            if self._served is not None and len(flows) > 1:
                self._served(flows, began)
            return
        # Send one half after the other. Both at once would double the number of requests while the server refuses some.
        first = set(flows[: len(flows) // 2])
        await self._deliver([item for item in items if item.flow in first])
        await self._deliver([item for item in items if item.flow not in first])


@contextmanager
def _reported(items: Sequence[_Item]) -> Iterator[None]:
    """Report what happens in the block to the calls that wait for these texts, since a request runs in no call's context.

    In a trace, the request of one caller is a part of that caller's operation. A shared request is an operation of its own, which names its callers.
    """
    lines = [line for item in items for line in item.lines]
    operations = list(dict.fromkeys(line.operation for line in lines if line.operation.observed))
    if not operations:
        step: Operation | AbstractContextManager[None] = nullcontext()
    elif len(operations) == 1:
        step = operations[0].active()
    else:
        step = begin("embed", callers=operations, **operations[0].about)
    with step, following_all(line.listener for line in lines):
        yield


def _may_be_caused_by_one_flow(error: Exception) -> bool:
    """Return whether one flow's text may be the cause of an error that the server returned. After a timeout, there is no time left to test that."""
    return isinstance(error, EmbeddingError) and error.attempts > 0 and not isinstance(error.__cause__, TimeoutError)


class _Item:
    """A text, and the callers that wait for its vector.

    Invariant: `done` is set once, after `vector` or `error`. If neither is set, the request was cancelled.
    """

    __slots__ = ("batch", "claims", "done", "error", "flow", "lines", "text", "vector", "waiting", "when")

    def __init__(self, text: str, flow: str) -> None:
        self.text = text
        self.flow = flow
        self.waiting = 0
        self.claims = 0  # the number of flows that wait for it
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

    def mark_sent(self) -> None:
        """Mark the text as sent: from now on, its callers wait for the embedder."""
        for line in self.lines:
            line.end()  # the wait in the queue is over, so the embedder's limits apply again

    def result(self) -> Vector:
        if self.error is not None:
            raise own_copy(self.error)  # each caller gets its own copy; otherwise their tracebacks would be joined
        if self.vector is None:
            raise EmbeddingError("the shared embedding request was cancelled", dependency="embedding", stage="embed")
        return self.vector


class _Line:
    """A caller's wait until its text is sent. The embedder's limits do not apply during this wait."""

    __slots__ = ("_item", "_waiting", "listener", "operation", "patience")

    def __init__(self, item: _Item) -> None:
        self._item = item
        self._waiting = in_line()
        self.patience = patience_in_force.get()
        self.listener = listener()
        self.operation = current()

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
    """The texts of one request. The sender uses it as a `Patience`, which lasts as long as the longest patience of its callers."""

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
        """Stop the time limits of all callers while the request waits for a place."""
        for line in self._lines():
            line.begin()

    def resume(self) -> None:
        for line in self._lines():
            line.end()

    def heard(self) -> None:
        """Do nothing: a vector arrives as a whole, so there is no partial progress."""

    def has_run_out(self, now: float) -> bool:
        """Return whether the patience of the last caller had run out when that caller left."""
        return self.ran_out

    def _lines(self) -> list[_Line]:
        return [line for item in self.items for line in item.lines]

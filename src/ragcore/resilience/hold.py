"""A place at a dependency that is held while a stream is opened, read and closed."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio

from ragcore.lifecycle.closing import close_quietly
from ragcore.lifecycle.owner import cleaning_up
from ragcore.resilience.admission import admit, admit_at_once
from ragcore.resilience.attempt import Attempt, AttemptTimeout
from ragcore.resilience.call import Call
from ragcore.resilience.dependency import Dependency
from ragcore.resilience.failure import On
from ragcore.resilience.pipeline import again, bounded, end_failed
from ragcore.resilience.verdict import outcome_of

__all__ = ["Hold"]

T = TypeVar("T")


class Hold:
    """A place at a dependency that is held for a stream. `Policy.hold()` returns it.

    Invariant: at most one attempt is under way, and the end of the block ends it. No cancel scope is open while an item is yielded. So the task that reads
    the stream need not be the task that opened it.
    """

    def __init__(self, dependency: Dependency, key: str | None, on: On | None) -> None:
        self._dependency = dependency
        self._key = key
        self._on = on
        self._call: Call | None = None
        self._attempt: Attempt | None = None
        self._handed_on = False
        self._placing = False
        self._reading: list[AsyncGenerator[Any, None]] = []
        self._sources: list[AsyncIterator[Any]] = []

    async def __aenter__(self) -> Self:
        self._call = Call(self._dependency, self._key, self._on)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        try:
            # Close the sources before the place is given back: while the connection is open, the dependency still works for this caller.
            if self._reading or self._sources:
                with cleaning_up():
                    for opened in (*self._reading, *self._sources):  # also closes a source that was never read
                        await close_quietly(opened)
        finally:
            # This is synchronous and in a `finally`, so that the place is given back even if the clean-up hangs or is cancelled again.
            if self._attempt is not None:
                self._attempt.end(None, anyio.current_time())

    @property
    def attempts(self) -> int:
        """The number of attempts so far."""
        return 0 if self._call is None else self._call.attempts

    async def call(self, fn: Callable[[], Awaitable[T]], /, *, timeout: float | None = None) -> T:
        """Take a place and open the stream. The place is kept until the block ends.

        A failed attempt gives the place back and is retried as in `Policy.call`. If the stream breaks before its first item was yielded, `call` may be
        used again to reopen it.

        Args:
            fn: called once per attempt.
            timeout: seconds for opening the stream, for all attempts together. If this time runs out, it counts as a failure of the dependency,
                provided that most successful calls take less time.
        """
        call = self._opened()
        if self._handed_on:
            raise RuntimeError(
                "the stream can't be reopened after its first item was yielded: the item would be repeated"
            )
        # The limit is a point in time and not a scope around all attempts: the time in the queue must not count, so `admission` adds it to `open_by`.
        call.open_by = math.inf if timeout is None else call.clock() + timeout

        async def attempt() -> T:
            opened = await self._place(call)
            try:
                return await bounded(call, fn, opened, self._dependency.attempt_timeout)
            except BaseException as error:
                end_failed(call, opened, error)
                raise

        try:
            return await attempt()
        except Exception as error:
            return await again(call, error, attempt)

    def items(self, source: AsyncIterable[T], /) -> AsyncGenerator[T, None]:
        """Yield the items of `source`: the first within `first_timeout`, each further one within `idle_timeout`, all within the deadline.

        No cancel scope is open across the `yield`. The time that the consumer takes counts toward the deadline, not toward the timeouts.

        Raises:
            TimeoutError: an item took too long.
            DeadlineExceeded: the deadline passed.
        """
        iterator = source.__aiter__()
        items = self._read(iterator)
        self._sources.append(iterator)
        self._reading.append(items)
        return items

    async def _read(self, iterator: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        call = self._opened()
        attempt = self._attempt
        try:
            if attempt is None or attempt.ended:  # `call` did not open this stream, so it takes its place here
                attempt = await self._place(call)
            while True:
                call.resume()  # each item may be read in a different task
                # Measure from here, not from the last item: the time that the reader takes does not count against the dependency.
                began = call.clock()
                try:
                    item = await self._next(call, iterator, attempt, began)
                except StopAsyncIteration:
                    attempt.judge("success", call.clock())
                    return
                except BaseException as error:
                    attempt.judge(outcome_of(call, error, attempt, began), call.clock())
                    if isinstance(error, Exception):
                        await call.yield_to_cancellation(error)
                    raise
                if not self._handed_on:
                    # Report the first item to the breaker at once: it shows that the dependency works, even if the answer takes long.
                    attempt.judge("success", call.clock())
                    self._handed_on = True
                    if call.patience is not None:
                        call.patience.heard()
                yield item
        finally:
            # If the block of the hold has ended, it has already closed the source.
            if iterator in self._sources:
                self._sources.remove(iterator)
                with cleaning_up():
                    await close_quietly(iterator)

    async def _next(self, call: Call, iterator: AsyncIterator[T], attempt: Attempt, began: float) -> T:
        limit = self._dependency.idle_timeout if self._handed_on else self._dependency.first_timeout
        call.open_by = math.inf
        try:
            return await bounded(call, iterator.__anext__, attempt, limit, began)
        except AttemptTimeout as error:
            if error.attempt is not attempt:
                raise
            what = "stopped sending for" if self._handed_on else "sent nothing within"
            raise AttemptTimeout(f"{self._dependency} {what} {limit:g} s", shortened=False, attempt=attempt) from error

    async def _place(self, call: Call) -> Attempt:
        """Give the place of the failed attempt back, if there is one, and take a new place."""
        if self._attempt is not None:
            self._attempt.end(None, call.clock())
        if self._placing:
            raise RuntimeError("another task is waiting for this hold's place: use a hold in one task at a time")
        call.resume()
        self._placing = True
        try:
            self._attempt = admit_at_once(call) or await admit(call)
        finally:
            self._placing = False
        return self._attempt

    def _opened(self) -> Call:
        if self._call is None:
            raise RuntimeError("the hold is not open: use `async with policy.hold() as held`")
        return self._call

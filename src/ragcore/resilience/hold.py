"""A place at a dependency that is kept for a stream: its opening, its items, its end."""

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
    """A place at a dependency that is kept for a stream. Made by `Policy.hold()`.

    Invariant: there is at most one attempt that has not ended, and the block's end ends it. No cancel scope is open while an item is handed out,
    so the stream may be read by another task than the one that opened it.
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
            # The sources before the place: while the connection is still open, the dependency is still at work for this caller.
            if self._reading or self._sources:
                with cleaning_up():
                    for opened in (*self._reading, *self._sources):  # a source that nobody has read is closed here
                        await close_quietly(opened)
        finally:
            # Synchronous, and in a `finally`: neither a clean-up that hangs nor a second cancellation keeps the place.
            if self._attempt is not None:
                self._attempt.end(None, anyio.current_time())

    @property
    def attempts(self) -> int:
        """How often the dependency was asked so far."""
        return 0 if self._call is None else self._call.attempts

    async def call(self, fn: Callable[[], Awaitable[T]], /, *, timeout: float | None = None) -> T:
        """Open the stream: the place is taken and kept; what fails is retried, as in `Policy.call`, with the place given back meanwhile.

        May be called again to reopen a stream that broke before its first item was handed on.

        Args:
            fn: called once per attempt.
            timeout: seconds for the opening with all its attempts; running out of them counts against the dependency.
        """
        call = self._opened()
        if self._handed_on:
            raise RuntimeError("the first item has been handed on: opening the stream again would repeat it")
        # Not a scope around all attempts: it would count the time in our own queue, which `admission` adds to this point in time.
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
        """The items of `source`, each within its time: the first within `first_timeout`, then `idle_timeout`, all within the deadline.

        No cancel scope is open across the `yield`. The consumer's time counts in the deadline, not in the timeouts.

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
            if attempt is None or attempt.ended:  # a stream that needs no opening takes its place here
                attempt = await self._place(call)
            while True:
                call.resume()  # whoever asked for this item may be another task than the one before
                began = call.clock()  # here, not after the last item: the reader's own time is not the dependency's
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
                    # The breaker hears of the first item at once: a long answer must not delay the news that the dependency is well.
                    attempt.judge("success", call.clock())
                    self._handed_on = True
                    if call.patience is not None:
                        call.patience.heard()
                yield item
        finally:
            # Where the block has ended first, it has closed the source already.
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
            what = "stopped for" if self._handed_on else "sent nothing within"
            raise AttemptTimeout(f"{self._dependency} {what} {limit:g} s", shortened=False, attempt=attempt) from error

    async def _place(self, call: Call) -> Attempt:
        """A new place; the one before, of an attempt that failed, is given back first."""
        if self._attempt is not None:
            self._attempt.end(None, call.clock())
        if self._placing:
            raise RuntimeError("another task is waiting for this hold's place: a hold is one task's at a time")
        call.resume()
        self._placing = True
        try:
            self._attempt = admit_at_once(call) or await admit(call)
        finally:
            self._placing = False
        return self._attempt

    def _opened(self) -> Call:
        if self._call is None:
            raise RuntimeError("use `async with policy.hold() as held`")
        return self._call

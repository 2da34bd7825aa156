"""The background thread with its event loop, one per process, and the deadlines of the threads that wait for it.

Invariants: the loop belongs to one process, and a forked child starts its own loop. No thread waits for the loop after its `ThreadDeadline`. At the end of
the interpreter, open clients are closed within a bounded time; the thread is a daemon.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from concurrent import futures
from contextlib import suppress
from functools import partial
from types import GeneratorType
from typing import TypeVar

import anyio

from ragcore.client import rag as asynchronous
from ragcore.errors import DeadlineExceeded, NotOpen

__all__ = [
    "CLOSE_SECONDS",
    "END_SECONDS",
    "SPENT_SECONDS",
    "START_SECONDS",
    "BackgroundLoop",
    "ThreadDeadline",
    "background",
]

T = TypeVar("T")
U = TypeVar("U")

START_SECONDS = 30.0
# The number of items that the calling thread reads ahead.
AHEAD = 64
END_SECONDS = 2.0
# The longest time for closing the components, after draining.
CLOSE_SECONDS = 30.0
# If the start takes longer than this many seconds, it counts towards the call's time.
SPENT_SECONDS = 0.02
# The grace period in seconds. A loop that is not blocked reports the timeout within this time.
GRACE_SECONDS = 0.1


class ThreadDeadline:
    """The deadline of a calling thread, measured by the thread's own clock. After the call's timeout, the loop has a grace period to report the timeout."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()

    def remaining(self) -> float:
        """Return seconds that the call still has."""
        return max(0.0, self._seconds - self.elapsed())

    def elapsed(self) -> float:
        """Return seconds since the call began."""
        return time.monotonic() - self._began

    def seconds_to_wait(self) -> float:
        """Return seconds to wait, including the grace period."""
        return self.remaining() + GRACE_SECONDS

    def expired(self, *, starting: bool = False) -> DeadlineExceeded:
        """Return the error for a wait that ended without a response from the loop."""
        elapsed = self.elapsed()
        if starting:
            return DeadlineExceeded(
                f"the client did not start within {elapsed:.1f} s; the start continues: call again, or call start() first",
                budget=self._seconds,
                elapsed=elapsed,
            )
        return DeadlineExceeded(
            f"no answer within {self._seconds:g} s, and the background event loop did not respond: it is blocked, or the machine is overloaded; "
            "see the watchdog's log",
            budget=self._seconds,
            elapsed=elapsed,
        )


class BackgroundLoop:
    """The background thread with its event loop; one per process.

    Invariant: `_lock` is held while the loop is made or ended, so that two threads that make the first calls start one loop. A forked child never uses its
    parent's loop and clients.
    """

    ended: bool

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._open: list[asynchronous.RAG] = []
        self._closing: set[asyncio.Task[None]] = set()
        self.ended = False

    def call(self, fn: Callable[[], Awaitable[T]], deadline: ThreadDeadline) -> T:
        """Run a coroutine function on the loop. It is cancelled if the calling thread is interrupted or its time is up.

        Raises:
            DeadlineExceeded: the time is up and the loop did not respond: it is blocked.
        """
        future = self.submit(fn)
        try:
            return self.wait(future, deadline)
        except BaseException:
            future.cancel()
            raise

    @staticmethod
    def wait(future: futures.Future[T], deadline: ThreadDeadline, *, starting: bool = False) -> T:
        """Wait for a result from the loop, until the calling thread's deadline.

        Args:
            starting: whether the thread waits for the start of the client.
        """
        try:
            return future.result(deadline.seconds_to_wait())
        except futures.TimeoutError:
            if future.done():  # the call has just ended, or has itself raised TimeoutError
                return future.result()
            raise deadline.expired(starting=starting) from None

    def feed(self, items: Iterable[U], fn: Callable[[AsyncIterable[U]], Awaitable[T]]) -> T:
        """Run a coroutine function on the loop, with items that this thread reads. If the function fails, its error is raised after the next item is read."""
        sender, receiver = anyio.create_memory_object_stream[U](AHEAD)
        ended = threading.Event()

        async def run() -> T:
            try:
                async with receiver:
                    return await fn(receiver)
            finally:
                sender.close()  # on the loop to which it belongs
                ended.set()

        future = self.submit(run)
        try:
            for item in items:
                try:
                    self.submit(partial(sender.send, item)).result()
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):  # `fn` has ended; `future` has its error
                    break
            else:
                self.submit(sender.aclose).result()
            return future.result()
        except BaseException:
            future.cancel()
            ended.wait(END_SECONDS)
            raise
        finally:
            if isinstance(items, GeneratorType):
                items.close()

    def submit(self, fn: Callable[[], Awaitable[T]]) -> futures.Future[T]:
        """Run a coroutine function on the loop. Don't wait for it, because the loop may be blocked."""

        async def run() -> T:
            # Call `fn` only here, on the loop. If the future is cancelled earlier, no coroutine exists that Python could report as never awaited.
            return await fn()

        return asyncio.run_coroutine_threadsafe(run(), self.running())

    def running(self) -> asyncio.AbstractEventLoop:
        """Return the loop, and start it if it does not run yet."""
        with self._lock:
            if self.ended:  # a thread can't run any longer
                raise NotOpen("the interpreter is ending and accepts no new calls")
            if self._loop is None or self._process != os.getpid():
                self._loop = self._start()
                self._process, self._open, self._closing = os.getpid(), [], set()
            return self._loop

    def renew_lock(self) -> None:
        """Make a new lock after a fork, in the child."""
        self._lock = threading.Lock()

    def opened(self, client: asynchronous.RAG) -> None:
        """Record that a client is open on the loop."""
        self._open.append(client)

    def closed(self, client: asynchronous.RAG) -> None:
        """Record that a client is closed."""
        if client in self._open:
            self._open.remove(client)

    def drop(self, client: asynchronous.RAG) -> None:
        """Close a client whose last reference is gone. The garbage collector calls this in any thread, at any moment, so it takes no lock and never waits."""
        loop = self._loop
        if loop is None or self.ended or self._process != os.getpid() or client not in self._open:
            return

        def close() -> None:
            task = loop.create_task(client.aclose(drain=0.0), name="ragcore closing a dropped client")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self.closed(client)

        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(close)

    def close(self) -> None:
        """Close all open clients within a bounded time, at the end of the interpreter."""
        loop = self._loop if self._process == os.getpid() else None
        try:
            for client in list(self._open) if loop else ():
                with suppress(DeadlineExceeded):
                    self.call(partial(client.aclose, drain=0.0), ThreadDeadline(CLOSE_SECONDS))
        finally:
            self.ended = True
        if loop is not None:
            loop.call_soon_threadsafe(self._stop.set)

    def _start(self) -> asyncio.AbstractEventLoop:
        started: list[asyncio.AbstractEventLoop] = []
        ready = threading.Event()

        async def main() -> None:
            self._stop = stop = anyio.Event()
            started.append(asyncio.get_running_loop())
            ready.set()
            await stop.wait()

        threading.Thread(target=anyio.run, args=(main,), name="ragcore blocking", daemon=True).start()
        if not ready.wait(START_SECONDS):
            raise NotOpen(f"the background event loop did not start within {START_SECONDS:g} s")
        return started[0]


background: BackgroundLoop = BackgroundLoop()
atexit.register(background.close)

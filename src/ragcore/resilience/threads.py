"""Runs blocking functions on a limited number of separate threads. A cancelled caller leaves its thread behind.

It never uses the loop's default executor, because abandoned calls would fill it, and DNS needs it too. A thread that was left behind keeps its place until
it ends, so that hanging calls can't start more and more threads.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import current_token

from ragcore.lifecycle.bound import expires_at
from ragcore.resilience.bulkhead import Bulkhead
from ragcore.resilience.clock import clock
from ragcore.resilience.flow import current_flow
from ragcore.resilience.patience import in_line

__all__ = ["Threads"]

T = TypeVar("T")

# Seconds for which closing a component waits for threads that callers left behind.
IDLE_SECONDS = 2.0


class Threads:
    """Runs at most `limit` threads at once. Further calls wait in a bounded queue.

    Invariant: a place is taken before its thread starts, and given back when the thread's work ends, not when its caller leaves.

    Args:
        limit: the largest number of threads.
        name: the name of the threads, also used in errors.
        queue: the largest number of waiting calls.
    """

    places: Bulkhead

    def __init__(self, limit: int, *, name: str, queue: int = 256) -> None:
        self.name = name
        self.places = Bulkhead(limit, queue=queue, name=name)
        self._jobs: set[_Job[Any]] = set()

    async def run(self, work: Callable[[], T], /) -> T:
        """Run `work` on a thread and return its result. A cancelled call returns at once; its thread continues and the result is dropped.

        Raises:
            Overloaded: the queue is full.
            Exception: the error of `work`.
        """
        if not self.places.try_acquire():
            with in_line():
                await self.places.acquire(expires_at())
        job = _Job(work, self.places, self._jobs)
        self._jobs.add(job)
        try:
            job.start(self.name)
        except BaseException:  # the operating system can't start another thread
            self._jobs.discard(job)
            self.places.release(flow=job.flow)
            raise
        await job.done.wait()
        if job.error is not None:
            raise job.error
        return job.value  # type: ignore[no-any-return]  # what work returned

    async def wait_until_idle(self, seconds: float = IDLE_SECONDS) -> None:
        """Wait until all threads have ended, also those that callers left behind, but at most `seconds`. Cancellation does not shorten it.

        If the interpreter exits while a thread is in a native library such as onnxruntime, it may abort the process.
        """
        with anyio.move_on_after(seconds, shield=True):
            while self._jobs:
                await next(iter(self._jobs)).done.wait()


class _Job(Generic[T]):
    __slots__ = ("_began", "_clock", "_jobs", "_notify", "_places", "_work", "done", "error", "flow", "value")

    def __init__(self, work: Callable[[], T], places: Bulkhead, jobs: set[_Job[Any]]) -> None:
        self._work = work
        self._jobs = jobs
        self._places = places
        self.flow = current_flow.get()
        self._clock = clock()
        self._began = self._clock()
        self.done = anyio.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        loop: Any = current_token().native_token
        self._notify = loop.call_soon_threadsafe if isinstance(loop, asyncio.AbstractEventLoop) else loop.run_sync_soon

    def start(self, name: str) -> None:
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run,), name=f"ragcore {name}", daemon=True).start()

    def _run(self) -> None:
        try:
            self.value = self._work()
        except BaseException as error:  # re-raised where the result is awaited
            self.error = error
        try:
            self._notify(self._finish)
        except RuntimeError:
            # The event loop has ended: no caller waits, and no other code gives the place back.
            self._jobs.discard(self)
            self._places.release(flow=self.flow)

    def _finish(self) -> None:
        self._jobs.discard(self)
        took = None if self.error is not None else self._clock() - self._began
        self._places.release(took, flow=self.flow)
        self.done.set()

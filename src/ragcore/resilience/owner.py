"""The owner task of a component, and what being open means.

Work that several callers share (a flight, a batch, a clean-up that takes too long) belongs to none of them: it lives in the task group of
one owner task. `start` and `aclose` may run in different tasks; neither holds a cancel scope open across its return.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
from anyio.lowlevel import EventLoopToken, current_token

from ragcore.errors import NotOpen, WrongEventLoop

__all__ = ["CLEAN_UP", "Owner", "Part", "Parts"]

logger = logging.getLogger("ragcore")

# Seconds that a caller waits for a clean-up; what takes longer goes on in the owner task.
CLEAN_UP = 0.25
# Seconds that a part may take to close, or background work to end, before it is left behind.
CLOSE_SECONDS = 5.0


class Owner:
    """One task that holds a task group for others' background work, until `stop`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._group: anyio.abc.TaskGroup | None = None
        self._stopping = anyio.Event()
        self._ready = anyio.Event()
        self._done = anyio.Event()
        self._task: object = None
        self._running = 0

    @property
    def running(self) -> int:
        """Pieces of work under way."""
        return self._running

    async def start(self) -> None:
        """Start the task; returns when work can be spawned."""
        context = contextvars.Context()  # the starter's deadline is not the owner's
        token = current_token()
        if token.backend_class.__module__.endswith("_trio"):
            import trio

            self._task = trio.lowlevel.spawn_system_task(self._run, name=f"ragcore {self.name}", context=context)
        else:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"ragcore {self.name}", context=context
            )
        with anyio.CancelScope(shield=True):
            await self._ready.wait()

    def spawn(
        self, work: Callable[[], Awaitable[object]], /, *, name: str, context: contextvars.Context | None = None
    ) -> None:
        """Run `work` in the owner task's group; what it raises is logged.

        Args:
            context: for work that is one caller's; None: an empty one, for work that is shared.
        """
        if self._group is None:
            raise NotOpen(f"{self.name} is closed")
        self._running += 1
        # A context of its own: whoever spawned it has a deadline that the work must not inherit.
        group, label = self._group, f"ragcore {self.name}: {name}"
        (context or contextvars.Context()).run(lambda: group.start_soon(self._guard, work, name=label))

    async def stop(self) -> None:
        """Cancel what still runs, and return when all of it has ended, or when it ignores that for too long."""
        self._stopping.set()
        with anyio.move_on_after(CLOSE_SECONDS):
            await self._done.wait()
            return
        logger.error("work of %s ignores its cancellation and was left behind", self.name)

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                self._ready.set()
                await self._stopping.wait()
                self._group = None
                group.cancel_scope.cancel()
        finally:
            self._group = None
            self._ready.set()
            self._done.set()

    async def _guard(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except Exception:
            logger.exception("background work of %s failed", self.name)
        finally:
            self._running -= 1


class Part:
    """A component that is started and closed: idempotent, safe before start and twice, `async with` on both backends.

    A subclass has `_open` and `_close`; it calls `_check_open` first thing in each call. `_close` gets at most `drain` seconds.
    """

    _owner: Owner | None = None
    _home: tuple[EventLoopToken, int] | None = None
    _starting: anyio.Event | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has been started, in this process, and not closed since."""
        return self._home is not None and self._home[1] == os.getpid() and self._starting is None

    async def start(self) -> None:
        """Make it ready for calls, on this event loop. No error if it is ready already.

        Raises:
            WrongEventLoop: it is open on another event loop.
            NotOpen: it was started by the process that forked this one.
        """
        if self._home is not None:
            if self._starting is not None:  # by another task: it isn't open before that is done
                await self._starting.wait()
            self._check_open()
            return
        self._home = (current_token(), os.getpid())
        self._starting = anyio.Event()
        try:
            self._owner = Owner(type(self).__name__)
            await self._owner.start()
            await self._open()
        except BaseException:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_SECONDS):
                await self._close()
            with anyio.CancelScope(shield=True):
                await self._shut()
            raise
        finally:
            self._starting.set()
            self._starting = None

    async def aclose(self) -> None:
        """Give everything back. No error if it was never started or is closed already."""
        if self._home is None or self._home[1] != os.getpid():
            return
        self._check_open()
        try:
            await self._close()
        finally:
            with anyio.CancelScope(shield=True):
                await self._shut()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self.aclose()

    async def _open(self) -> None:
        """What a subclass does on start."""

    async def _close(self) -> None:
        """What a subclass does on close; bounded by itself."""

    async def _shut(self) -> None:
        owner, self._owner = self._owner, None
        try:
            if owner is not None:
                await owner.stop()
        finally:
            self._home = None

    def _check_open(self) -> Owner:
        if self._home is None:
            raise NotOpen(f"{type(self).__name__} is not open: use `async with`, or await its start() first")
        loop, process = self._home
        if process != os.getpid():
            raise NotOpen(
                f"{type(self).__name__} was started in process {process} and this is its forked child {os.getpid()}: "
                "make and start another one after the fork"
            )
        if loop is not current_token() and loop != current_token():
            raise WrongEventLoop(
                f"{type(self).__name__} was started on another event loop: start one on each loop, or use ragcore.blocking"
            )
        if self._owner is None:
            raise NotOpen(f"{type(self).__name__} is being started or closed")
        return self._owner


class Parts:
    """The parts that a component started, and so closes. A part may have `start` and `aclose`, or neither."""

    def __init__(self) -> None:
        self._started: list[object] = []

    async def start(self, part: object) -> None:
        """Start a part, unless it is open already: then someone else owns it."""
        start = getattr(part, "start", None)
        if start is None or getattr(part, "is_open", False):
            return
        self._started.append(part)
        await start()

    async def aclose(self) -> None:
        """Close what was started, last first, each within 5 s; what fails to close is logged, and the rest is closed all the same."""
        cancelled: BaseException | None = None
        while self._started:
            part = self._started.pop()
            close = getattr(part, "aclose", None)
            if close is None:
                continue
            try:
                with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_SECONDS) as scope:
                    await close()
                if scope.cancelled_caught:
                    logger.error("%s did not close within %g s and was left behind", type(part).__name__, CLOSE_SECONDS)
            except Exception:
                logger.exception("%s did not close", type(part).__name__)
            except (
                anyio.get_cancelled_exc_class()
            ) as error:  # a Task.cancel(), which a shield doesn't stop: first the others
                cancelled = error
        if cancelled is not None:
            raise cancelled

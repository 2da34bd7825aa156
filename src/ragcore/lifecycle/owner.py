"""The owner task of a component.

Work that several callers share (a flight, a batch, a clean-up that takes too long) belongs to none of them: it lives in the task group of
one owner task. `start` and `stop` may run in different tasks; neither holds a cancel scope open across its return.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable

import anyio
import anyio.abc
from anyio.lowlevel import current_token

from ragcore.errors import NotOpen
from ragcore.lifecycle.bound import expires_at

__all__ = ["CLEAN_UP", "CLOSE_SECONDS", "Owner", "cleaning_up"]

logger: logging.Logger = logging.getLogger("ragcore")

# Seconds that a caller waits for a clean-up; what takes longer goes on in the owner task.
CLEAN_UP = 0.25
# Seconds that it waits where its time is up, or where it is being cancelled: it should be back by its deadline.
CLEAN_UP_LATE = 0.05
# Seconds that a part may take to close, or background work to end, before it is left behind.
CLOSE_SECONDS = 5.0


def cleaning_up() -> anyio.CancelScope:
    """A scope for a clean-up that its caller waits for: shielded, and over after 250 ms, or after 50 ms where the caller's time is up."""
    now = anyio.current_time()
    seconds = CLEAN_UP if expires_at() > now + CLEAN_UP else CLEAN_UP_LATE
    return anyio.CancelScope(deadline=now + seconds, shield=True)


class Owner:
    """One task that holds a task group for others' background work, until `stop`.

    Invariant: `_group` is set exactly while work may be spawned. What was spawned has ended when `stop` returns, or was reported as left behind.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._group: anyio.abc.TaskGroup | None = None
        self._stopping = anyio.Event()
        self._ready = anyio.Event()
        self._done = anyio.Event()
        self._task: object = None
        self._running = 0
        self._left = 0

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
        try:
            with anyio.CancelScope(shield=True):
                await self._ready.wait()
        except BaseException:  # a Task.cancel(), which a shield doesn't stop
            self._stopping.set()
            raise

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

    async def clean_up(self, work: Callable[[], Awaitable[object]], /, *, name: str) -> None:
        """Run `work` here and wait for it as long as `cleaning_up` does; what takes longer goes on while the caller has long returned.

        A cancellation ends the waiting, never the work, which has a time of its own: 5 s.
        """
        done = anyio.Event()

        async def bounded() -> None:
            try:
                with anyio.move_on_after(CLOSE_SECONDS) as scope:
                    await work()
                if scope.cancelled_caught:
                    logger.error("%s: %s did not end within %g s and was left", self.name, name, CLOSE_SECONDS)
            finally:
                done.set()

        with cleaning_up():
            if self._group is None:  # closed meanwhile: here, then, or not at all
                await work()
                return
            self.spawn(bounded, name=name)
            await done.wait()

    async def within(self, seconds: float, work: Callable[[], Awaitable[object]], /, *, name: str) -> None:
        """Run `work` in the owner task's group, and return when it has ended or its seconds are over, whatever it does: a task that can't be cancelled
        can be left. What it raises is logged. A cancellation of the caller's, which a shield doesn't stop where it is a Task.cancel(), comes out after
        that.
        """
        done = anyio.Event()

        async def bounded() -> None:
            try:
                with anyio.move_on_after(seconds):
                    await work()
                    return
                logger.error("%s did not end within %g s", name, seconds)
            except Exception:
                logger.exception("%s failed", name)
            finally:
                done.set()

        self.spawn(bounded, name=name, context=contextvars.copy_context())
        cancelled: BaseException | None = None
        until = anyio.current_time() + seconds + CLEAN_UP
        while not done.is_set() and anyio.current_time() < until:
            try:
                with anyio.CancelScope(deadline=until, shield=True):
                    await done.wait()
            except anyio.get_cancelled_exc_class() as error:
                cancelled = error
        if not done.is_set():
            self._left += 1
            logger.error("%s ignores its cancellation and was left behind", name)
        if cancelled is not None:
            raise cancelled

    async def stop(self) -> None:
        """Cancel what still runs, and return when all of it has ended, or when it ignores that for too long."""
        self._stopping.set()
        # What was left behind has had its time.
        with anyio.move_on_after(CLEAN_UP if self._left else CLOSE_SECONDS):
            await self._done.wait()
            return
        logger.error("work of %s ignores its cancellation and was left behind", self.name)

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                self._ready.set()
                try:
                    await self._stopping.wait()
                finally:
                    self._stopping.set()  # also where the event loop ends without a stop
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
        except anyio.get_cancelled_exc_class():
            if self._stopping.is_set():
                raise
            # Not ours: something that the work awaited was cancelled by somebody else. It ends this work and no other's.
            logger.exception("background work of %s was cancelled by something that it waited for", self.name)
        except BaseExceptionGroup as group:
            cancelled, failed = group.split(anyio.get_cancelled_exc_class())
            if failed is not None:
                logger.exception("background work of %s failed", self.name, exc_info=failed)
            if cancelled is not None and self._stopping.is_set():
                raise cancelled from None
        finally:
            self._running -= 1

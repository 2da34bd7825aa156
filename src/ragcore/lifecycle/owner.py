"""The owner task of a component.

Work that several callers share (a flight, a batch, a long clean-up) runs in the task group of one owner task, not in the task of a caller.
`start` and `stop` may run in different tasks; neither keeps a cancel scope open after it returns.
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

# Seconds that a caller waits for a clean-up. If a clean-up takes longer, `Owner.clean_up` lets it continue in the owner task.
CLEAN_UP = 0.25
# Seconds that a caller waits if its deadline has passed or it is being cancelled, because it should return by its deadline.
CLEAN_UP_LATE = 0.05
# Seconds that a component may take to close, or background work may take to end. After that it is left behind.
CLOSE_SECONDS = 5.0


def cleaning_up() -> anyio.CancelScope:
    """Return a shielded scope for a clean-up that its caller waits for. The scope ends after 250 ms, or after 50 ms if the caller's deadline is near."""
    now = anyio.current_time()
    seconds = CLEAN_UP if expires_at() > now + CLEAN_UP else CLEAN_UP_LATE
    return anyio.CancelScope(deadline=now + seconds, shield=True)


class Owner:
    """A task with a task group for the background work of a component, from `start` to `stop`.

    Invariant: `_group` is set while work may be spawned. When `stop` returns, all spawned work has ended or was logged as left behind.
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
        """The number of pieces of work under way."""
        return self._running

    async def start(self) -> None:
        """Start the task. Returns when work can be spawned."""
        context = contextvars.Context()  # empty: the owner must not inherit the deadline of the code that starts it
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
        except BaseException:  # Task.cancel() can end even a shielded wait
            self._stopping.set()
            raise

    def spawn(
        self, work: Callable[[], Awaitable[object]], /, *, name: str, context: contextvars.Context | None = None
    ) -> None:
        """Run `work` in the owner task's group. Its errors are logged.

        Args:
            work: the work.
            name: the name of the task.
            context: the context of the work. None: an empty one, for work that several callers share.

        Raises:
            NotOpen: the owner is stopped.
        """
        if self._group is None:
            raise NotOpen(f"{self.name} is closed")
        self._running += 1
        # Run the work in its own context, because it must not inherit the deadline of the code that spawns it.
        group, label = self._group, f"ragcore {self.name}: {name}"
        (context or contextvars.Context()).run(lambda: group.start_soon(self._guard, work, name=label))

    async def clean_up(self, work: Callable[[], Awaitable[object]], /, *, name: str) -> None:
        """Run `work` in the owner task's group and wait for it as long as `cleaning_up` allows. Longer work continues after this call has returned.

        A cancellation ends the wait but not the work. The work has its own time limit of 5 s.
        """
        done = anyio.Event()

        async def bounded() -> None:
            try:
                with anyio.move_on_after(CLOSE_SECONDS) as scope:
                    await work()
                if scope.cancelled_caught:
                    logger.error("%s: %s did not end within %g s and was cancelled", self.name, name, CLOSE_SECONDS)
            finally:
                done.set()

        with cleaning_up():
            if self._group is None:  # the owner was stopped meanwhile: run the work in this task
                await work()
                return
            self.spawn(bounded, name=name)
            await done.wait()

    async def within(self, seconds: float, work: Callable[[], Awaitable[object]], /, *, name: str) -> None:
        """Run `work` in the owner task's group. Return when it has ended or `seconds` are over, even if the work ignores its cancellation.

        Errors of the work are logged. `Task.cancel()` can cancel the caller even in a shielded scope; then the cancellation is raised at the end.
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
        """Cancel the work that still runs. Return when all of it has ended, or after 5 s if some work ignores the cancellation."""
        self._stopping.set()
        # If work was left behind, wait only for a short time, because that work has already used its time.
        with anyio.move_on_after(CLEAN_UP if self._left else CLOSE_SECONDS):
            await self._done.wait()
            return
        logger.error("background work of %s ignores its cancellation and was left behind", self.name)

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                self._ready.set()
                try:
                    await self._stopping.wait()
                finally:
                    self._stopping.set()  # needed if the event loop ends without a call of `stop`
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
            # This is not a cancellation by `stop`: other code cancelled a task that the work awaited. It must end only this work.
            logger.exception("background work of %s ended because a task that it awaited was cancelled", self.name)
        except BaseExceptionGroup as group:
            cancelled, failed = group.split(anyio.get_cancelled_exc_class())
            if failed is not None:
                logger.exception("background work of %s failed", self.name, exc_info=failed)
            if cancelled is not None and self._stopping.is_set():
                raise cancelled from None
        finally:
            self._running -= 1

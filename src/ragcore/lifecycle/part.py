"""Starts and closes components, and the parts that a component owns."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from ragcore.compat.ability import offers
from ragcore.errors import NotOpen, WrongEventLoop
from ragcore.lifecycle.owner import CLOSE_SECONDS, Owner

__all__ = ["Closable", "Opened", "Part", "Parts", "Startable"]

logger: logging.Logger = logging.getLogger("ragcore")


@runtime_checkable
class Startable(Protocol):
    """A component that must be started before its first call."""

    async def start(self) -> None:
        """Make the component ready for calls."""


@runtime_checkable
class Opened(Protocol):
    """A component that reports whether it is open."""

    @property
    def is_open(self) -> bool:
        """Whether the component is ready for calls."""


@runtime_checkable
class Closable(Protocol):
    """A component that must be closed after its last call."""

    async def aclose(self) -> None:
        """Release all resources of the component."""


class _Change:
    """A start or a close that is under way. Other tasks wait until it is over."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.failed = False


class Part:
    """The base class of components that are started and closed. It supports `async with` on asyncio and trio.

    A component may be started or closed twice, and it may be closed without a start.

    A subclass implements `_open` and `_close`, and calls `_check_open` at the start of each call. `_close` must limit its own time.

    Invariant: `_home` is set from the beginning of a start to the end of a close. At most one change is under way; a task that wants another change waits.
    """

    _owner: Owner | None = None
    _home: tuple[EventLoopToken, int] | None = None
    _starting: _Change | None = None
    _closing: _Change | None = None

    @property
    def is_open(self) -> bool:
        """Whether the component was started in this process and has not been closed since."""
        changing = self._starting is not None or self._closing is not None
        return self._home is not None and self._home[1] == os.getpid() and not changing

    async def start(self) -> None:
        """Start the component on this event loop. Does nothing if it is already open. If it is being closed, wait for that and start it again.

        Raises:
            WrongEventLoop: the component is open on another event loop.
            NotOpen: the component was started in the parent process before a fork, or another task was starting it and failed.
        """
        await self._start()

    async def _start(self) -> bool:
        """Start the component. Return whether this call opened it, so that its caller must close it."""
        while self._home is not None:
            self._check_here()
            change = self._starting or self._closing
            if change is None:
                return False
            await change.over.wait()
            if change.failed:
                raise NotOpen(
                    f"{type(self).__name__} is not open: another task failed to start it; see the error of that task"
                )
        self._home = (current_token(), os.getpid())
        change = self._starting = _Change()
        try:
            self._owner = Owner(type(self).__name__)
            await self._owner.start()
            await self._open()
        except BaseException:
            change.failed = True
            with anyio.CancelScope(shield=True):
                try:
                    with anyio.move_on_after(CLOSE_SECONDS):
                        await self._close()
                except Exception:
                    logger.exception("closing %s failed, after its start had failed", type(self).__name__)
                finally:
                    await self._shut()
            raise
        finally:
            self._starting = None
            change.over.set()
        return True

    async def aclose(self) -> None:
        """Close the component and release its resources. Does nothing if it was never started or is already closed."""
        while self._home is not None and self._home[1] == os.getpid():
            self._check_here()
            if self._closing is not None:  # another task is closing it
                await self._closing.over.wait()
                return
            if self._starting is None:
                break
            await self._starting.over.wait()
        else:
            return
        change = self._closing = _Change()
        try:
            await self._close()
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await self._shut()
            finally:
                self._closing = None
                change.over.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self.aclose()

    async def _open(self) -> None:
        """Start the subclass's own resources."""

    async def _close(self) -> None:
        """Release the subclass's own resources. The subclass must limit the time."""

    async def _shut(self) -> None:
        owner, self._owner = self._owner, None
        try:
            if owner is not None:
                await owner.stop()
        finally:
            self._home = None

    def _check_open(self) -> Owner:
        self._check_here()
        if self._owner is None:
            raise NotOpen(f"{type(self).__name__} is being started or closed: use it after its start() has returned")
        return self._owner

    def _check_here(self) -> None:
        if self._home is None:
            raise NotOpen(f"{type(self).__name__} is not open: use `async with`, or await its start() first")
        loop, process = self._home
        if process != os.getpid():
            raise NotOpen(
                f"{type(self).__name__} was started in process {process} and can't be used in its forked child {os.getpid()}: "
                "make and start another one after the fork"
            )
        if loop is not current_token() and loop != current_token():
            raise WrongEventLoop(
                f"{type(self).__name__} was started on another event loop: start one on each event loop, or use ragcore.blocking"
            )


class Parts:
    """The parts that a component has started and must close. A part may have `start` and `aclose`, or neither.

    Invariant: `_started` has the parts that this component must close, in the order of their start. A part that was already open has another owner.
    """

    def __init__(self) -> None:
        self._started: list[object] = []

    async def start(self, part: object) -> None:
        """Start a part. A part that is already open has another owner and is left as it is."""
        if isinstance(part, Part):
            if await part._start():
                self._started.append(part)
            return
        if offers(part, Startable) and not (offers(part, Opened) and part.is_open):
            self._started.append(part)
            await part.start()

    async def aclose(self) -> None:
        """Close all started parts, the last one first, each within 5 s. If a part fails to close, the error is logged and the others are still closed."""
        closing = [part for part in reversed(self._started) if offers(part, Closable)]
        self._started.clear()
        if not closing:
            return
        cancelled: BaseException | None = None
        # Close the parts in another task. If a part shields its close from cancellation, this task would have to wait for it.
        with anyio.CancelScope(shield=True):
            owner: Owner | None = None
            while owner is None:
                owner = Owner("closing")
                try:
                    await owner.start()
                except anyio.get_cancelled_exc_class() as error:
                    owner, cancelled = None, error  # Task.cancel() ends even a shielded wait: raise it later
            close = partial(owner.within, CLOSE_SECONDS)
            steps: list[Callable[[], Awaitable[None]]]
            steps = [partial(close, part.aclose, name=f"closing {type(part).__name__}") for part in closing]
            for step in (*steps, owner.stop):
                try:
                    await step()
                except anyio.get_cancelled_exc_class() as error:
                    cancelled = error
        if cancelled is not None:
            raise cancelled

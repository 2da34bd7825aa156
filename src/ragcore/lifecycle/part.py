"""What being open means: a component that is started and closed, and the parts that it starts and closes in turn."""

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
    """A part that is made ready for calls."""

    async def start(self) -> None:
        """Make it ready."""


@runtime_checkable
class Opened(Protocol):
    """A part that says whether it is ready."""

    @property
    def is_open(self) -> bool:
        """Whether it is."""


@runtime_checkable
class Closable(Protocol):
    """A part that is closed in the end."""

    async def aclose(self) -> None:
        """Give back what it holds."""


class _Change:
    """A start or a close that is under way; others wait until it is over."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.failed = False


class Part:
    """A component that is started and closed: idempotent, safe before start and twice, `async with` on both backends.

    A subclass has `_open` and `_close`; it calls `_check_open` first thing in each call. `_close` gets at most `drain` seconds.

    Invariant: `_home` is set from the beginning of a start to the end of a close; one change at most is under way, and all who want another wait for it.
    """

    _owner: Owner | None = None
    _home: tuple[EventLoopToken, int] | None = None
    _starting: _Change | None = None
    _closing: _Change | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has been started, in this process, and not closed since."""
        changing = self._starting is not None or self._closing is not None
        return self._home is not None and self._home[1] == os.getpid() and not changing

    async def start(self) -> None:
        """Make it ready for calls, on this event loop. No error if it is ready already; one that is being closed is started again after that.

        Raises:
            WrongEventLoop: it is open on another event loop.
            NotOpen: it was started by the process that forked this one, or another task was starting it and failed.
        """
        await self._start()

    async def _start(self) -> bool:
        """The same; whether it was this call that opened it, and whose it is to close."""
        while self._home is not None:
            self._check_here()
            change = self._starting or self._closing
            if change is None:
                return False
            await change.over.wait()
            if change.failed:
                raise NotOpen(f"another task was starting {type(self).__name__}, and failed: its error says why")
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
                    logger.exception("%s could not be started, nor closed again", type(self).__name__)
                finally:
                    await self._shut()
            raise
        finally:
            self._starting = None
            change.over.set()
        return True

    async def aclose(self) -> None:
        """Give everything back. No error if it was never started or is closed already."""
        while self._home is not None and self._home[1] == os.getpid():
            self._check_here()
            if self._closing is not None:  # by another task, which does it for both
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
        self._check_here()
        if self._owner is None:
            raise NotOpen(f"{type(self).__name__} is being started or closed")
        return self._owner

    def _check_here(self) -> None:
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


class Parts:
    """The parts that a component started, and so closes. A part may have `start` and `aclose`, or neither.

    Invariant: `_started` has those that this component must close, in the order of their start; a part that was open before is somebody else's.
    """

    def __init__(self) -> None:
        self._started: list[object] = []

    async def start(self, part: object) -> None:
        """Start a part, unless it is open already: then someone else owns it."""
        if isinstance(part, Part):
            if await part._start():
                self._started.append(part)
            return
        if offers(part, Startable) and not (offers(part, Opened) and part.is_open):
            self._started.append(part)
            await part.start()

    async def aclose(self) -> None:
        """Close what was started, last first, each within 5 s whatever it does; what fails to close is logged, and the rest is closed all the same."""
        closing = [part for part in reversed(self._started) if offers(part, Closable)]
        self._started.clear()
        if not closing:
            return
        cancelled: BaseException | None = None
        # In another task than this one, which could not leave a close that shields itself.
        with anyio.CancelScope(shield=True):
            owner: Owner | None = None
            while owner is None:
                owner = Owner("closing")
                try:
                    await owner.start()
                except anyio.get_cancelled_exc_class() as error:
                    owner, cancelled = None, error  # a Task.cancel(), which a shield doesn't stop: first it is closed
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

"""What being open means: a component that is started and closed, and the parts that it starts and closes in turn."""

from __future__ import annotations

import logging
import os
from types import TracebackType
from typing import Self

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from ragcore.errors import NotOpen, WrongEventLoop
from ragcore.resilience.owner import CLOSE_SECONDS, Owner

__all__ = ["Part", "Parts"]

logger = logging.getLogger("ragcore")


class Part:
    """A component that is started and closed: idempotent, safe before start and twice, `async with` on both backends.

    A subclass has `_open` and `_close`; it calls `_check_open` first thing in each call. `_close` gets at most `drain` seconds.
    """

    _owner: Owner | None = None
    _home: tuple[EventLoopToken, int] | None = None
    _starting: anyio.Event | None = None
    _closing: anyio.Event | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has been started, in this process, and not closed since."""
        changing = self._starting is not None or self._closing is not None
        return self._home is not None and self._home[1] == os.getpid() and not changing

    async def start(self) -> None:
        """Make it ready for calls, on this event loop. No error if it is ready already; one that is being closed is started again after that.

        Raises:
            WrongEventLoop: it is open on another event loop.
            NotOpen: it was started by the process that forked this one, or by another task whose start failed.
        """
        if self._home is not None:
            self._check_here()
            if self._closing is not None:
                await self._closing.wait()
                return await self.start()
            if self._starting is not None:  # by another task: it isn't open before that is done
                await self._starting.wait()
            self._check_open()
            return None
        self._home = (current_token(), os.getpid())
        self._starting = anyio.Event()
        try:
            self._owner = Owner(type(self).__name__)
            await self._owner.start()
            await self._open()
        except BaseException:
            with anyio.CancelScope(shield=True):
                try:
                    with anyio.move_on_after(CLOSE_SECONDS):
                        await self._close()
                finally:
                    await self._shut()
            raise
        finally:
            self._starting.set()
            self._starting = None

    async def aclose(self) -> None:
        """Give everything back. No error if it was never started or is closed already."""
        if self._home is None or self._home[1] != os.getpid():
            return None
        self._check_here()
        if self._closing is not None:  # by another task, which does it for both
            await self._closing.wait()
            return None
        if self._starting is not None:
            await self._starting.wait()
            return await self.aclose()
        self._closing = anyio.Event()
        try:
            await self._close()
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await self._shut()
            finally:
                self._closing.set()
                self._closing = None

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

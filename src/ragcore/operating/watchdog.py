"""Detects hangs. The watchdog runs in its own thread, since a blocked event loop can't check itself.

It detects a call that has not returned after its deadline, a blocked event loop, and a default executor whose threads are all in use, which also stops
DNS. Each occurrence is reported once, as an event and a line in the log, with the stack that shows the cause.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from anyio.lowlevel import current_token

from ragcore.compat.private import executor_queue
from ragcore.events import emit
from ragcore.operating.calls import Calls
from ragcore.operating.waiting import stack_of
from ragcore.resilience.clock import clock

__all__ = ["Watchdog"]

logger: logging.Logger = logging.getLogger("ragcore.watchdog")

# Seconds between two checks.
INTERVAL = 0.05
# Seconds after which an event loop that doesn't respond counts as blocked.
BLOCKED = 0.1
# A call counts as hung if it has not returned this many seconds after its deadline.
GRACE = 1.0
# If work waits for a thread longer than this many seconds, the default executor counts as full.
SATURATED = 0.5
# Frames of a stack that are shown, innermost last.
MOST_FRAMES = 12
MOST_THREADS = 3


class _Closed(Exception):
    """The event loop is closed, so the watchdog ends."""


class Watchdog:
    """Watches one event loop and the calls of one client.

    Invariant: the event loop writes only `_beaten` and `_loop_time`; only the watchdog's thread writes the results of its checks. Each value is replaced by
    one assignment.

    Args:
        calls: the calls to watch. The watchdog updates `calls.blocked`; the error of a late call contains that time.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = 0
        self._beaten = 0.0
        self._loop_time = 0.0
        self._asked = 0.0
        self._blocked_since: float | None = None
        self._blocked_before = 0.0
        self._in_cell = False
        self._hung: set[str] = set()
        self._full_since: float | None = None
        self._saturated = False

    def start(self) -> None:
        """Watch the event loop of the current thread, until `stop`."""
        token: Any = current_token().native_token
        on_asyncio = isinstance(token, asyncio.AbstractEventLoop)
        ask = token.call_soon_threadsafe if on_asyncio else token.run_sync_soon
        loop = token if on_asyncio else None
        self._ended = threading.Event()
        self._process = os.getpid()
        self._loop_time, self._beaten = clock()(), time.perf_counter()
        self._asked = self._beaten
        self._blocked_since, self._full_since, self._saturated = None, None, False
        self._hung = set()
        self._thread = threading.Thread(
            target=self._watch,
            args=(threading.get_ident(), ask, loop, self._ended),
            name="ragcore watchdog",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. The thread ends soon afterwards; this method doesn't wait for it."""
        self._ended.set()
        self._thread = None

    @property
    def watching(self) -> bool:
        """Whether the watchdog's thread runs in this process."""
        return self._thread is not None and self._process == os.getpid() and self._thread.is_alive()

    def _watch(self, watched: int, ask: Callable[..., object], loop: Any, ended: threading.Event) -> None:
        while not ended.wait(INTERVAL):
            if loop is not None and loop.is_closed():
                return
            if loop is not None and not loop.is_running():  # between two `run_until_complete` calls: it is not blocked
                self._asked = self._beaten = time.perf_counter()
                self._blocked_since = None
                continue
            try:
                self._check_loop(watched, ask)
                if self._blocked_since is None:  # while the loop is blocked, every call is late
                    self._check_calls()
                self._check_executor(loop)
            except _Closed:
                return
            except Exception:
                logger.exception("a check of the watchdog failed; the watchdog continues")

    def _check_loop(self, watched: int, ask: Callable[..., object]) -> None:
        now = time.perf_counter()
        if self._beaten >= self._asked:  # the loop has responded
            if self._blocked_since is not None:
                seconds, self._blocked_since = self._beaten - self._blocked_since, None
                self._calls.blocked = self._blocked_before + seconds
                if not self._in_cell:
                    logger.warning("the event loop is no longer blocked, after %.2f s", seconds)
                    emit("loop.unblocked", "watchdog", seconds=seconds)
            self._asked = now
            try:
                ask(self._beat)
            except RuntimeError:
                raise _Closed from None
        elif self._blocked_since is not None:
            # Keep the time up to date: calls may end as soon as the loop responds, and their errors contain it.
            self._calls.blocked = self._blocked_before + now - self._blocked_since
        elif now - self._asked > BLOCKED:
            self._blocked_since, self._blocked_before = self._asked, self._calls.blocked
            self._in_cell = _runs_a_cell(watched)
            if self._in_cell:
                return
            stack = _stack_of_thread(watched)
            logger.error(
                "the event loop has been blocked for %.2f s: no call continues and no deadline is kept until this code returns:\n%s",
                now - self._asked,
                stack,
            )
            emit("loop.blocked", "watchdog", seconds=now - self._asked, stack=stack)

    def _beat(self) -> None:
        self._loop_time, self._beaten = clock()(), time.perf_counter()

    def _check_calls(self) -> None:
        overdue = self._calls.overdue(self._loop_time, GRACE)
        for call, elapsed in overdue:
            if call.id in self._hung:
                continue
            stack = stack_of(call.task)
            logger.error(
                "call %s (%s, stage %s) has not returned %.1f s after it began, although its timeout was %.1f s: it ignores its "
                "cancellation and waits here:\n%s",
                call.id,
                call.method,
                call.stage,
                elapsed,
                call.budget or 0.0,
                stack,
            )
            emit("call.hung", call.method, id=call.id, stage=call.stage, elapsed=elapsed, stack=stack)
        self._hung = {call.id for call, _ in overdue}

    def _check_executor(self, loop: Any) -> None:
        queued, threads = executor_queue(loop)
        now = time.perf_counter()
        if not queued:
            self._full_since, self._saturated = None, False
            return
        self._full_since = self._full_since or now
        if self._saturated or now - self._full_since < SATURATED:
            return
        self._saturated = True
        stacks = "\n".join(map(_stack_of_thread, threads[:MOST_THREADS]))
        logger.error(
            "the event loop's default executor is full: all of its %d threads are in use and %d tasks wait, DNS look-ups included; "
            "some of its threads:\n%s",
            len(threads),
            queued,
            stacks,
        )
        emit("executor.saturated", "watchdog", threads=len(threads), queued=queued, stack=stacks)


def _runs_a_cell(thread: int) -> bool:
    """Return whether a thread runs a cell of a notebook. Each cell blocks the kernel's event loop, so this is not reported."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_name == "run_code" and frame.f_globals.get("__name__") == "IPython.core.interactiveshell":
            return True
        frame = frame.f_back
    return False


def _stack_of_thread(ident: int | None) -> str:
    frame = sys._current_frames().get(ident or 0)
    return "(the thread has ended)" if frame is None else _shown(traceback.extract_stack(frame))


def _shown(frames: Iterable[traceback.FrameSummary]) -> str:
    """Format the frames without source code, which may contain secrets."""
    return "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in list(frames)[-MOST_FRAMES:])

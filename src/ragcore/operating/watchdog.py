"""Finds what a user calls a hang, from a thread of its own, so that it sees an event loop that can't look at itself.

Three things: a call that is past its deadline and not back; an event loop that is blocked; a default executor all of whose threads are taken, which
also stops DNS. Each is an event and a line in the log, once for each time it happens, with the stack that says why.
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
from ragcore.operating.calls import Calls, stack_of
from ragcore.resilience.clock import clock

__all__ = ["Watchdog"]

logger: logging.Logger = logging.getLogger("ragcore.watchdog")

# Seconds between two looks.
INTERVAL = 0.05
# An event loop that takes this much longer to turn is blocked.
BLOCKED = 0.1
# A call that isn't back this long after its deadline ignores it.
GRACE = 1.0
# Work that waits this long for a thread of the default executor.
SATURATED = 0.5
# Frames of a stack that are shown, innermost last.
MOST_FRAMES = 12
MOST_THREADS = 3


class _Closed(Exception):
    """The event loop is closed: there is nothing left to watch."""


class Watchdog:
    """Watches one event loop and the calls of one client.

    Invariant: only its own thread writes what it has seen; the loop writes nothing but `_beaten` and `_loop_time`, and each value is replaced whole.

    Args:
        calls: whose deadlines are watched; those that waited for a blocked loop say so.
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
        self._hung: set[str] = set()
        self._full_since: float | None = None
        self._saturated = False

    def start(self) -> None:
        """Watch the event loop that runs here, until `stop`."""
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
        """No longer watch. The thread ends by itself, soon; nobody waits for it."""
        self._ended.set()
        self._thread = None

    @property
    def watching(self) -> bool:
        """Whether its thread runs, in this process."""
        return self._thread is not None and self._process == os.getpid() and self._thread.is_alive()

    def _watch(self, watched: int, ask: Callable[..., object], loop: Any, ended: threading.Event) -> None:
        while not ended.wait(INTERVAL):
            if loop is not None and loop.is_closed():
                return
            if loop is not None and not loop.is_running():  # between two `run_until_complete`: nothing is blocked
                self._asked = self._beaten = time.perf_counter()
                self._blocked_since = None
                continue
            try:
                self._look_at_loop(watched, ask)
                if self._blocked_since is None:  # or nothing could have ended in time
                    self._look_at_calls()
                self._look_at_executor(loop)
            except _Closed:
                return
            except Exception:
                logger.exception("the watchdog failed, and goes on")

    def _look_at_loop(self, watched: int, ask: Callable[..., object]) -> None:
        now = time.perf_counter()
        if self._beaten >= self._asked:  # it has answered
            if self._blocked_since is not None:
                seconds, self._blocked_since = self._beaten - self._blocked_since, None
                self._calls.blocked = self._blocked_before + seconds
                logger.warning("the event loop turns again, after %.2f s", seconds)
                emit("loop.unblocked", "watchdog", seconds=seconds)
            self._asked = now
            try:
                ask(self._beat)
            except RuntimeError:
                raise _Closed from None
        elif self._blocked_since is not None:  # known as it goes, for what ends in the first turn of the loop
            self._calls.blocked = self._blocked_before + now - self._blocked_since
        elif now - self._asked > BLOCKED:
            self._blocked_since, self._blocked_before = self._asked, self._calls.blocked
            stack = _stack_of_thread(watched)
            logger.error(
                "the event loop has been blocked for %.2f s: no call can go on, and no deadline is kept, until this returns:\n%s",
                now - self._asked,
                stack,
            )
            emit("loop.blocked", "watchdog", seconds=now - self._asked, stack=stack)

    def _beat(self) -> None:
        self._loop_time, self._beaten = clock()(), time.perf_counter()

    def _look_at_calls(self) -> None:
        overdue = self._calls.overdue(self._loop_time, GRACE)
        for call, elapsed in overdue:
            if call.id in self._hung:
                continue
            stack = stack_of(call.task)
            logger.error(
                "call %s (%s, stage %s) is not back %.1f s after it began, though its time was %.1f s: it waits here and ignores its "
                "cancellation:\n%s",
                call.id,
                call.method,
                call.stage,
                elapsed,
                call.budget or 0.0,
                stack,
            )
            emit("call.hung", call.method, id=call.id, stage=call.stage, elapsed=elapsed, stack=stack)
        self._hung = {call.id for call, _ in overdue}

    def _look_at_executor(self, loop: Any) -> None:
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
            "the event loop's default executor is full: all of its %d threads are taken and %d pieces of work wait, name look-ups among "
            "them. Some of its threads:\n%s",
            len(threads),
            queued,
            stacks,
        )
        emit("executor.saturated", "watchdog", threads=len(threads), queued=queued, stack=stacks)


def _stack_of_thread(ident: int | None) -> str:
    frame = sys._current_frames().get(ident or 0)
    return "(the thread has ended)" if frame is None else _shown(traceback.extract_stack(frame))


def _shown(frames: Iterable[traceback.FrameSummary]) -> str:
    """Where, without the lines of code: those may hold what nobody should read."""
    return "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in list(frames)[-MOST_FRAMES:])

"""Detects hangs. The watchdog runs in its own thread, since a blocked event loop can't check itself.

It detects a call that has not returned after its deadline, a blocked event loop, and a default executor whose threads are all in use, which also stops
DNS. Each occurrence is reported once, as an event and a line in the log, with the stack that shows the cause.

A machine without free processors also delays the event loop. If the loop only waits for I/O, or if the process did not run, the watchdog reports
starvation instead of a blocked loop: then no code of the process is the cause.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from anyio.lowlevel import current_token

from ragcore.compat.private import executor_queue
from ragcore.events import emit
from ragcore.operating.calls import Calls
from ragcore.operating.processor import ThreadMeter
from ragcore.operating.waiting import stack_of
from ragcore.resilience.clock import clock

__all__ = ["Watchdog", "blocking_allowed"]

logger: logging.Logger = logging.getLogger("ragcore.watchdog")

# Seconds between two checks while calls run.
INTERVAL = 0.05
# Seconds between two checks while no call runs, and seconds after the last call until then. So an idle process is rarely woken.
IDLE_INTERVAL = 1.0
# Seconds after which an event loop that doesn't respond counts as blocked.
BLOCKED = 0.1
# A call counts as hung if it has not returned this many seconds after its deadline.
GRACE = 1.0
# A loop counts as blocked at this check without a response, and a call as hung after this many responses of the loop.
MISSED, PASSES = 2, 5
# If work waits for a thread longer than this many seconds, the default executor counts as full.
SATURATED = 0.5
# The loop or the watchdog waited for a processor for more than this share of the time: then the machine is starved. While the watchdog did not run, a process
# that used more than this share of a processor was not starved, but computed.
LEAST_SHARE = 0.5
# Seconds between two lines of the log about starvation.
LOG_SECONDS = 60.0
# Functions in which an idle event loop waits for I/O, by module.
WAITING = {
    ("selectors", "select"),
    ("asyncio.windows_events", "_poll"),
    ("trio._core._io_epoll", "get_events"),
    ("trio._core._io_kqueue", "get_events"),
}
# Frames of a stack that are shown, innermost last.
MOST_FRAMES = 12
MOST_THREADS = 3


# Threads that block their event loop on purpose.
_allowed: set[int] = set()


@contextmanager
def blocking_allowed() -> Iterator[None]:
    """Don't report that the block stops the event loop of this thread. It is for the start of a service, before it serves anyone."""
    thread = threading.get_ident()
    _allowed.add(thread)
    try:
        yield
    finally:
        _allowed.discard(thread)


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
        # Set to wake the thread: a call begins, the loop has responded, or the watchdog stops.
        self._called = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = 0
        self._beaten = 0.0
        self._loop_time = 0.0
        self._asked = 0.0
        self._busy_until = 0.0
        self._runner: CodeType | None = None
        self._missed = 0
        self._beats = 0
        # The overdue calls that are not reported yet, with the number of beats when each was first seen.
        self._suspected: dict[str, int] = {}
        self._meter = ThreadMeter(0)
        self._logged = -math.inf
        self._blocked_since: float | None = None
        self._blocked_before = 0.0
        self._silent = False
        self._starved = False
        self._slept_over = 0.0
        self._used = 0.0
        self._hung: set[str] = set()
        self._full_since: float | None = None
        self._saturated = False

    def start(self) -> None:
        """Watch the event loop of the current thread, until `stop`."""
        token: Any = current_token().native_token
        on_asyncio = isinstance(token, asyncio.AbstractEventLoop)
        ask = token.call_soon_threadsafe if on_asyncio else token.run_sync_soon
        loop = token if on_asyncio else None
        # uvloop waits for I/O in compiled code: then the innermost frame is that of the function that runs the loop.
        self._meter = ThreadMeter(threading.get_native_id())
        self._runner = _runner() if type(token).__module__.startswith("uvloop") else None
        self._ended = threading.Event()
        self._calls.on_first = self._called.set
        self._process = os.getpid()
        self._loop_time, self._beaten = clock()(), time.perf_counter()
        self._asked = self._beaten
        self._blocked_since, self._full_since, self._saturated = None, None, False
        self._hung, self._suspected = set(), {}
        self._thread = threading.Thread(
            target=self._watch,
            args=(threading.get_ident(), ask, loop, self._ended, self._called),
            name="ragcore watchdog",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. The thread ends soon afterwards; this method doesn't wait for it."""
        self._ended.set()
        self._called.set()
        self._thread = None

    @property
    def watching(self) -> bool:
        """Whether the watchdog's thread runs in this process."""
        return self._thread is not None and self._process == os.getpid() and self._thread.is_alive()

    def _watch(
        self,
        watched: int,
        ask: Callable[..., object],
        loop: Any,
        ended: threading.Event,
        called: threading.Event,
    ) -> None:
        while not self._sleep(ended, called):
            if loop is not None and loop.is_closed():
                return
            if loop is not None and not loop.is_running():  # between two `run_until_complete` calls: it is not blocked
                self._asked = self._beaten = time.perf_counter()
                # The code that blocked it has returned, and listeners wait for the end.
                if self._blocked_since is not None:
                    self._report_response(self._beaten - self._blocked_since)
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

    def _sleep(self, ended: threading.Event, called: threading.Event) -> bool:
        """Sleep until the next check. Return whether the watchdog has been stopped.

        While calls run, or the loop owes a response, the next check is soon. Otherwise the thread sleeps longer, and the first call wakes it.
        """
        began, used = time.perf_counter(), time.process_time()
        if self._busy(began) or self._beaten < self._asked:
            seconds = INTERVAL
            ended.wait(seconds)
        else:
            seconds = IDLE_INTERVAL
            called.clear()
            if not (self._calls.running or ended.is_set()):  # otherwise the event was set before it was cleared
                called.wait(seconds)
        self._slept_over += max(0.0, time.perf_counter() - began - seconds)
        self._used += time.process_time() - used
        return ended.is_set()

    def _busy(self, now: float) -> bool:
        """Return whether calls run, or did a moment ago, or work waits for a thread."""
        if self._calls.running or self._full_since is not None:
            self._busy_until = now + IDLE_INTERVAL
        return now < self._busy_until

    def _check_loop(self, watched: int, ask: Callable[..., object]) -> None:
        now = time.perf_counter()
        if self._beaten >= self._asked:  # the loop has responded
            if self._blocked_since is not None:
                self._report_response(self._beaten - self._blocked_since)
            if not self._busy(now) and now - self._asked < 0.9 * IDLE_INTERVAL:
                return
            self._asked, self._missed = now, 0
            self._slept_over = self._used = 0.0
            self._meter.restart()
            try:
                ask(self._beat)
            except RuntimeError:
                raise _Closed from None
            return
        if self._blocked_since is not None:
            # Keep the time up to date: calls may end as soon as the loop responds, and their errors contain it.
            self._calls.blocked = self._blocked_before + now - self._blocked_since
            return
        waited = self._meter.waited()
        if now - self._asked > BLOCKED:
            self._missed += 1
            if self._missed < MISSED:
                return
            self._blocked_since, self._blocked_before = self._asked, self._calls.blocked
            frame = sys._current_frames().get(watched)
            self._silent = watched in _allowed or _runs_a_cell(frame)
            self._starved = not self._silent and (self._waits(frame) or self._did_not_run(now, waited))
            if self._silent or self._starved:
                return
            stack = _stack_of_thread(watched)
            logger.error(
                "the event loop has been blocked for %.2f s: no call continues and no deadline is kept until this code returns:\n%s",
                now - self._asked,
                stack,
            )
            emit("loop.blocked", "watchdog", seconds=now - self._asked, stack=stack)

    def _report_response(self, seconds: float) -> None:
        self._blocked_since = None
        self._calls.blocked = self._blocked_before + seconds
        if self._starved:
            self._log_starvation(seconds)
            emit("loop.starved", "watchdog", seconds=seconds)
        elif not self._silent:
            logger.warning("the event loop is no longer blocked, after %.2f s", seconds)
            emit("loop.unblocked", "watchdog", seconds=seconds)

    def _waits(self, frame: FrameType | None) -> bool:
        """Return whether the event loop waits for I/O. Then no code blocks it: it has work, and does not get the processor."""
        if frame is None:
            return False
        return frame.f_code is self._runner or (frame.f_globals.get("__name__"), frame.f_code.co_name) in WAITING

    def _log_starvation(self, seconds: float) -> None:
        """Log once a minute: on a starved machine, each line costs time that others need."""
        now = time.perf_counter()
        if now - self._logged < LOG_SECONDS:
            return
        self._logged = now
        logger.warning(
            "starved: the event loop was ready to run and did not run for %.2f s; other processes or other threads of this process "
            "used the processors; further times within a minute are not logged",
            seconds,
        )

    def _did_not_run(self, now: float, waited: float) -> bool:
        """Return whether the loop's thread did not get the processor: it waited for one, or the whole process did not run.

        Code that computes in C without giving up the interpreter's lock also makes the watchdog oversleep, but it uses the processor.
        """
        half = LEAST_SHARE * (now - self._asked)
        return waited > half or (self._slept_over > half and self._used < LEAST_SHARE * self._slept_over)

    def _beat(self) -> None:
        self._beats += 1
        self._loop_time, self._beaten = clock()(), time.perf_counter()

    def _check_calls(self) -> None:
        overdue = self._calls.overdue(self._loop_time, GRACE)
        for call, elapsed in overdue:
            # On a starved machine, a cancelled call needs more time, but not more passes of the loop.
            first = self._suspected.setdefault(call.id, self._beats)
            if call.id in self._hung or self._beats - first < PASSES:
                continue
            self._hung.add(call.id)
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
        late = {call.id for call, _ in overdue}
        self._hung &= late
        self._suspected = {key: first for key, first in self._suspected.items() if key in late}

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


def _runner() -> CodeType | None:
    """Return the code that runs the current event loop: that of the frame around the outermost coroutine."""
    frame: FrameType | None = sys._getframe()
    found = None
    while frame is not None:
        if frame.f_code.co_flags & inspect.CO_COROUTINE:
            found = frame.f_back
        frame = frame.f_back
    return None if found is None else found.f_code


def _runs_a_cell(frame: FrameType | None) -> bool:
    """Return whether a thread runs a cell of a notebook. Each cell blocks the kernel's event loop, so this is not reported."""
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

"""The client's calls: where each is while it runs, and how the last ones ended."""

from __future__ import annotations

import math
import secrets
from collections import deque
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Any, Self

import anyio

from ragcore.audit import Actor, actor, record
from ragcore.errors import DeadlineExceeded, GenerationError, NotOpen, RagcoreError
from ragcore.events import emit
from ragcore.generation.prompt import render
from ragcore.lifecycle.bound import expires_at, inherit
from ragcore.lifecycle.stages import following
from ragcore.resilience.clock import cancel_scope, running
from ragcore.resilience.flow import flow
from ragcore.text.tokens import estimate_tokens
from ragcore.types import CallInfo, Generation, Prompt, Timings, Usage

__all__ = ["Call", "Calls", "spent_by", "stack_of"]


# An estimate, for models that don't say what they used.
CHARACTERS_A_TOKEN = 4


class Calls:
    """All calls of one client. Works at any log level.

    Invariant: a call stands in `_running` from `begin` to its finish, which counts it once, whatever ended it; `_idle` is set when the last has left.

    Args:
        recent: how many finished calls are remembered.

    Attributes:
        blocked: seconds, so far, in which the event loop was blocked, as the watchdog saw it.
    """

    closed: bool
    blocked: float

    def __init__(self, *, recent: int) -> None:
        self._running: dict[str, Call] = {}
        self._finished: deque[CallInfo] = deque(maxlen=recent)
        self._outcomes: dict[str, int] = {}
        self._idle = anyio.Event()
        self._draining: anyio.CancelScope | None = None
        self.closed = False
        self.blocked = 0.0

    def begin(self, method: str, tenant: str, timeout: float | None) -> Call:
        """A new call, running from now on until its `finish`.

        Args:
            timeout: seconds; None: bounded by its parts alone (an ingest).
        """
        call = Call(self, secrets.token_hex(8), method, tenant, timeout)
        self._running[call.id] = call
        return call

    def inflight(self) -> tuple[CallInfo, ...]:
        """Running calls, oldest first."""
        return tuple(call.info() for call in self._running.values())

    def withdraw(self, call: Call) -> None:
        """A call that was refused before it did anything: nothing is remembered of it."""
        if self._running.pop(call.id, None) is not None and not self._running:
            self._idle.set()

    def running_of(self, tenant: str) -> int:
        """How many calls of a tenant are under way."""
        return sum(call.tenant == tenant for call in self._running.values())

    def recent(self) -> tuple[CallInfo, ...]:
        """Finished calls, oldest first."""
        return tuple(self._finished)

    def overdue(self, now: float, grace: float) -> list[tuple[Call, float]]:
        """Calls that should have been back this many seconds ago, with the seconds since they began. From any thread.

        Args:
            now: on `anyio.current_time()`'s clock.
        """
        running = tuple(self._running.values())
        return [(call, now - call.began) for call in running if call.stepping and call.when + grace < now]

    def forget(self, tenant: str) -> int:
        """Drop a tenant's finished calls; how many there were."""
        kept = [call for call in self._finished if call.tenant != tenant]
        dropped = len(self._finished) - len(kept)
        self._finished = deque(kept, maxlen=self._finished.maxlen)
        return dropped

    def counts(self) -> dict[str, int]:
        """How many run, and how many ended in which way."""
        return {"running": len(self._running), **self._outcomes}

    async def drain(self, seconds: float) -> None:
        """Wait for running calls; cancel what is left after `seconds`."""
        self.closed = True
        if not self._running:
            return
        if self._idle.is_set():
            self._idle = anyio.Event()
        try:
            with anyio.move_on_after(seconds) as self._draining:
                await self._idle.wait()
                return
        finally:  # also where the wait was cancelled
            self._draining = None
            for call in list(self._running.values()):
                call.cancel()
        with anyio.move_on_after(1.0):
            await self._idle.wait()

    def hurry(self, seconds: float) -> None:
        """Drain for no longer than this from now."""
        if self._draining is not None:
            self._draining.deadline = min(self._draining.deadline, anyio.current_time() + seconds)

    def _finish(self, call: Call, outcome: str) -> None:
        if self._running.pop(call.id, None) is None:
            return
        self._finished.append(call.info(outcome))
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        record(
            call.method,
            call.tenant,
            by=call.actor,
            call_id=call.id,
            outcome=outcome,
            passages=call.passages,
            documents=call.documents,
        )
        emit("call.finished", call.method, id=call.id, stage=call.stage, outcome=outcome, elapsed=call.elapsed())
        if not self._running:
            self._idle.set()


class Call:
    """One call: its deadline, its stage, its timings. As a context manager it bounds a step of it.

    A stream has a step for each piece. A timer for each step would cost a third of the step, so a stream has one timer, in a task of its owner,
    which calls `expire` (`timed_by_owner`).

    Invariant: a scope is open, and the flow, the deadline and the listener are set, exactly while a step is under way; a stream's call has many steps,
    in as many tasks, and between two of them nothing of it is set anywhere.
    """

    began: float
    actor: Actor
    when: float
    written: int
    stage: str
    timings: Timings

    def __init__(self, calls: Calls, id: str, method: str, tenant: str, timeout: float | None) -> None:
        self._calls = calls
        self.id = id
        self.method = method
        self.tenant = tenant
        self.stage = "start"
        self.timings = Timings()
        self.began = anyio.current_time()
        self.budget = timeout
        self.degraded = False
        # Handed out, or changed, and by whom.
        self.passages = 0
        self.documents = 0
        # What the model was asked, the characters that it has written, the tokens that were embedded, and whether the tenant has been charged for them.
        self.prompt: Prompt | None = None
        self.written = 0
        self.embedded = 0
        self.charged = False
        self.spent: tuple[tuple[str, Usage], ...] = ()
        # Whether the counts that all processes share have it under way.
        self.counted = False
        self.actor = actor()
        own = float("inf") if timeout is None else self.began + timeout
        self.when = min(own, expires_at()) if timeout is not None else own
        self._own = own
        self._cancelled = False
        self._why = ""
        self.timed_by_owner = False
        self._scope: anyio.CancelScope | None = None
        # Made once, not for each step: a call has one step at a time.
        self._stages = following(self)
        self._flow = flow(tenant)
        self._inherit = None if timeout is None else inherit(self.when)
        self._blocked_before = calls.blocked
        self.task: Any = None

    def elapsed(self) -> float:
        """Seconds since it began."""
        return anyio.current_time() - self.began

    def remaining(self) -> float:
        """Seconds to its deadline, at least 0."""
        return max(0.0, self.when - anyio.current_time())

    @property
    def stepping(self) -> bool:
        """Whether a step of it is under way."""
        return self._scope is not None

    def cancel(self, why: str = "the client was closed while this call was running") -> None:
        """What runs is cancelled and raises `NotOpen`, which says why."""
        self._cancelled = True
        self._why = why
        if self._scope is not None:
            self._scope.cancel()
        else:  # a stream between two events: its reader finds out at the next
            self.finish("cancelled")

    def expire(self) -> None:
        """End the step under way if the call's own time is used up. For the owner of the timer."""
        if self._scope is not None and anyio.current_time() >= self._own:
            self._scope.cancel()

    def saw(self, piece: str | Generation) -> None:
        """A piece of the answer has come. The time of the first is seconds since the call began."""
        if self.timings.first_token is None:
            self.timings = replace(self.timings, first_token=self.elapsed())
        if isinstance(piece, str):
            self.written += len(piece)

    def estimated(self) -> Usage:
        """What it has used of a model that didn't say it, by estimate."""
        texts = () if self.prompt is None else (message["content"] for message in render(self.prompt))
        return Usage(
            prompt_tokens=sum(map(estimate_tokens, texts)),
            completion_tokens=math.ceil(self.written / CHARACTERS_A_TOKEN),
        )

    def finish(self, outcome: str) -> None:
        """It has ended; calling it again changes nothing."""
        self._calls._finish(self, outcome)

    def info(self, outcome: str | None = None) -> CallInfo:
        """As it is now."""
        return CallInfo(
            id=self.id,
            method=self.method,
            tenant=self.tenant,
            stage=self.stage,
            elapsed=self.elapsed(),
            waiting_on=_waiting_on(self.task) if outcome is None else None,
            outcome=outcome,
        )

    def failed(self, error: BaseException) -> None:
        """Ended by an error, which gets the call's id and stage where it has none."""
        self.spent = spent_by(error)
        if isinstance(error, RagcoreError):
            error.call_id = error.call_id or self.id
            error.stage = error.stage or self.stage
            if isinstance(error, DeadlineExceeded) and error.timings == Timings():
                error.timings = self.timings
        self.finish(type(error).__name__ if isinstance(error, Exception) else "cancelled")

    def __enter__(self) -> Self:
        if self._cancelled:
            raise self._closed()
        task, clock = running()
        self.task = task or _trio_task()
        self._scope = scope = cancel_scope(math.inf if self.timed_by_owner else self._own, task)
        scope.__enter__()
        if self.timed_by_owner and clock() >= self._own:
            scope.cancel()
        self._stages.__enter__()
        self._flow.__enter__()
        if self._inherit is not None:
            self._inherit.__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        assert self._scope is not None
        if self._inherit is not None:
            self._inherit.__exit__()
        self._flow.__exit__(None, None, None)
        self._stages.__exit__()
        scope, self._scope, self.task = self._scope, None, None
        scope.__exit__(exc_type, exc, traceback)
        if scope.cancelled_caught:
            raise (self._closed() if self._cancelled else self.expired()) from None

    def on_stage(self, stage: str, seconds: float | None) -> None:
        """A stage has begun, or, with its seconds, ended."""
        self.stage = stage
        if seconds is not None:
            self.timings = replace(self.timings, **{stage: seconds})

    def on_embedded(self, tokens: int) -> None:
        """So many tokens have been embedded for it."""
        self.embedded += tokens

    def expired(self) -> DeadlineExceeded:
        """Its time is used up."""
        elapsed = self.elapsed()
        budget = self.budget or elapsed
        blocked = self._calls.blocked - self._blocked_before
        why = f"; for {blocked:.1f} s of it the event loop was blocked, by what the log says" if blocked else ""
        return DeadlineExceeded(
            f"no answer within {budget:g} s: the time ran out in stage {self.stage!r} after {elapsed:.2f} s{why}",
            budget=budget,
            elapsed=elapsed,
            timings=self.timings,
            stage=self.stage,
            call_id=self.id,
        )

    def _closed(self) -> NotOpen:
        return NotOpen(self._why, stage=self.stage, call_id=self.id)


def spent_by(error: BaseException) -> tuple[tuple[str, Usage], ...]:
    """(model, usage) of a model that failed and said what it has used for that."""
    if not isinstance(error, GenerationError) or error.used_tokens is None:
        return ()
    return ((error.model, Usage(prompt_tokens=error.used_tokens[0], completion_tokens=error.used_tokens[1])),)


def _trio_task() -> Any:
    import trio

    return trio.lowlevel.current_task()


def stack_of(task: Any) -> str:
    """The frames that a task awaits, outermost first, one a line, without the lines of code."""
    return "\n".join(
        f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}" for frame in _frames(task)
    )


def _waiting_on(task: Any) -> str | None:
    """The innermost frame that a task awaits."""
    frame = next(iter(reversed(_frames(task))), None)
    if frame is None:
        return None
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}:{frame.f_lineno}"


def _frames(task: Any) -> list[FrameType]:
    """What a task awaits, from the outside in: `Task.get_stack()` shows only the outermost."""
    coroutine = None if task is None else task.get_coro() if hasattr(task, "get_coro") else task.coro
    frames = []
    for _ in range(200):
        frame = (
            getattr(coroutine, "cr_frame", None)
            or getattr(coroutine, "ag_frame", None)
            or getattr(coroutine, "gi_frame", None)
        )
        if frame is not None:
            frames.append(frame)
        inner = (
            getattr(coroutine, "cr_await", None)
            or getattr(coroutine, "ag_await", None)
            or getattr(coroutine, "gi_yieldfrom", None)
        )
        if inner is None:
            break
        coroutine = inner
    return frames

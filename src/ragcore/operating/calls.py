"""The client's calls: the state of each running call, and the outcomes of the last finished ones."""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import anyio

from ragcore.audit import Actor, actor, record
from ragcore.errors import DeadlineExceeded, NotOpen, RagcoreError
from ragcore.events import emit, listening
from ragcore.lifecycle import operations
from ragcore.lifecycle.bound import expires_at, inherit
from ragcore.lifecycle.stages import following
from ragcore.operating.call_log import DegradationLog, log_call
from ragcore.operating.findings import Findings
from ragcore.operating.used import estimate, spent_by
from ragcore.operating.waiting import current_task, waiting_on
from ragcore.resilience.clock import cancel_scope, running
from ragcore.resilience.flow import flow
from ragcore.types import CallInfo, Generation, Prompt, Timings, Usage

__all__ = ["Call", "Calls"]


# What a stream waits for between two steps.
READER = "the reader of the stream"
STAGES = ("rewrite", "embed", "search", "rerank", "generate", "first_token")


class Calls:
    """All calls of one client. It records calls at any log level.

    Invariant: a call is in `_running` from `begin` to `finish`, which counts it once, however it ended. `_idle` is set when the last call has ended.

    Args:
        recent: the number of finished calls to remember.
        plain_tenants: whether the log of calls has the names of tenants, and not their pseudonyms.

    Attributes:
        blocked: seconds for which the event loop has been blocked so far, measured by the watchdog.
        on_first: called when a call begins while no other runs; None: nothing is called.
    """

    closed: bool
    blocked: float

    def __init__(self, *, recent: int, plain_tenants: bool = False) -> None:
        self._running: dict[str, Call] = {}
        self._finished: deque[CallInfo] = deque(maxlen=recent)
        self._outcomes: dict[str, int] = {}
        self._plain_tenants = plain_tenants
        self._degradations = DegradationLog()
        self._idle = anyio.Event()
        self._draining: anyio.CancelScope | None = None
        self.closed = False
        self.blocked = 0.0
        self.on_first: Callable[[], object] | None = None

    @property
    def running(self) -> int:
        """The number of running calls. May be read from any thread."""
        return len(self._running)

    def begin(self, method: str, tenant: str, timeout: float | None) -> Call:
        """Begin a call. It runs until its `finish`.

        Args:
            timeout: seconds; None: no deadline for the whole call (only for `add`, whose steps have time limits).
        """
        call = Call(self, secrets.token_hex(8), method, tenant, timeout)
        self._running[call.id] = call
        if len(self._running) == 1 and self.on_first is not None:
            self.on_first()
        emit("call.started", method, id=call.id)
        return call

    def inflight(self) -> tuple[CallInfo, ...]:
        """Return the running calls, oldest first."""
        return tuple(call.info() for call in self._running.values())

    def withdraw(self, call: Call) -> None:
        """Remove a call that was refused before it did anything, without a record of it."""
        if self._running.pop(call.id, None) is not None:
            self._end(call, "LimitExceeded")
            if not self._running:
                self._idle.set()

    def running_of(self, tenant: str) -> int:
        """Return the number of running calls of a tenant."""
        return sum(call.tenant == tenant for call in self._running.values())

    def recent(self) -> tuple[CallInfo, ...]:
        """Return the finished calls, oldest first."""
        return tuple(self._finished)

    def overdue(self, now: float, grace: float) -> list[tuple[Call, float]]:
        """Return the calls whose step under way is past the deadline, with the seconds since each began. May be called from any thread.

        Args:
            now: on the clock of `anyio.current_time()`.
            grace: seconds after its deadline before a call counts as overdue.
        """
        running = tuple(self._running.values())
        return [(call, now - call.began) for call in running if call.stepping and call.when + grace < now]

    def forget(self, tenant: str) -> int:
        """Remove a tenant's finished calls, and return their number."""
        kept = [call for call in self._finished if call.tenant != tenant]
        dropped = len(self._finished) - len(kept)
        self._finished = deque(kept, maxlen=self._finished.maxlen)
        return dropped

    def counts(self) -> dict[str, int]:
        """Return the number of running calls, and of finished calls by outcome."""
        return {"running": len(self._running), **self._outcomes}

    async def drain(self, seconds: float) -> None:
        """Wait for running calls, and cancel those that still run after `seconds`."""
        self.closed = True
        if not self._running:
            return
        if self._idle.is_set():
            self._idle = anyio.Event()
        try:
            with anyio.move_on_after(seconds) as self._draining:
                await self._idle.wait()
                return
        finally:  # cancel the calls even if the wait was cancelled
            self._draining = None
            for call in list(self._running.values()):
                call.cancel()
        with anyio.move_on_after(1.0):
            await self._idle.wait()

    def hurry(self, seconds: float) -> None:
        """End a running `drain` at most this many seconds from now."""
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
        log_call(
            call_id=call.id,
            method=call.method,
            tenant=call.tenant,
            outcome=outcome,
            elapsed=call.elapsed(),
            stages=call.stages(),
            degraded=call.findings.stages,
            finish_reason=call.findings.finish_reason,
            attempts=1 + call.retries,
            plain_tenant=self._plain_tenants,
        )
        self._degradations.log(call.findings.degradations, call_id=call.id, now=anyio.current_time())
        self._end(call, outcome)
        if not self._running:
            self._idle.set()

    def _end(self, call: Call, outcome: str) -> None:
        """Tell listeners and observers that a call has ended."""
        if call.operation.observed:
            call.operation.note(
                outcome=outcome,
                stage=call.stage,
                degraded=call.findings.stages,
                finish_reason=call.findings.finish_reason,
            )
            if outcome not in ("ok", "degraded"):
                call.operation.failed(outcome)
            call.operation.end()
        if listening("call.finished"):
            emit(
                "call.finished",
                call.method,
                id=call.id,
                stage=call.stage,
                outcome=outcome,
                elapsed=call.elapsed(),
                attempts=1 + call.retries,
                **call.findings.figures(call.timings),
            )


class Call:
    """One call, with its deadline, its stage and its timings. As a context manager, it limits the time of one step of the call.

    A stream has a step for each piece. A timer for each step would take a third of the step's time. So a stream has a single timer, in a task of
    its owner, and `timed_by_owner` is set. When the deadline passes, that task calls `expire`.

    Invariant: while a step is under way, and only then, a scope is open and the flow, the deadline and the listener are set. The steps of a stream may run in
    different tasks; between two steps, none of these is set in any task.
    """

    began: float
    actor: Actor
    when: float
    written: int
    stage: str
    timings: Timings
    findings: Findings
    retries: int
    embedded: int
    operation: operations.Operation

    def __init__(self, calls: Calls, id: str, method: str, tenant: str, timeout: float | None) -> None:
        self._calls = calls
        self.id = id
        self.method = method
        self.tenant = tenant
        self.stage = "start"
        self.timings = Timings()
        self.began = anyio.current_time()
        self.budget = timeout
        self.findings = Findings()
        self.retries = 0  # the number of requests that were repeated
        # For the audit log: passages that were returned, documents that were changed, and (`actor`) who made the call.
        self.passages = 0
        self.documents = 0
        # For charging: the prompt, the characters that the model has written, the embedded tokens, and whether the tenant has been charged for all this.
        self.prompt: Prompt | None = None
        self.written = 0
        self.embedded = 0
        self.charged = False
        self.spent: tuple[tuple[str, Usage], ...] = ()
        # Whether the call counts as running in the shared counts of all processes.
        self.counted = False
        self.actor = actor()
        own = float("inf") if timeout is None else self.began + timeout
        self.when = min(own, expires_at()) if timeout is not None else own
        self._own = own
        self._cancelled = False
        self._why = ""
        self.timed_by_owner = False
        self._scope: anyio.CancelScope | None = None
        # One object serves all steps, because a call has one step at a time.
        self._stages = following(self)
        self._flow = flow(tenant)
        self._inherit = None if timeout is None else inherit(self.when)
        # In the caller's context, which is the parent of the call's span.
        self.operation = operations.begin("call", method=method, id=id, tenant=tenant)
        self._step = self.operation.active()
        self._blocked_before = calls.blocked
        self.task: Any = None

    def elapsed(self) -> float:
        """Return seconds since the call began."""
        return anyio.current_time() - self.began

    def remaining(self) -> float:
        """Return seconds to its deadline, at least 0."""
        return max(0.0, self.when - anyio.current_time())

    @property
    def stepping(self) -> bool:
        """Whether a step of the call is under way."""
        return self._scope is not None

    def cancel(self, why: str = "the client was closed while this call was running") -> None:
        """Cancel the call. The step under way raises `NotOpen` with the reason.

        Args:
            why: the message of the error.
        """
        self._cancelled = True
        self._why = why
        if self._scope is not None:
            self._scope.cancel()
        else:  # the call is a stream between two events: its reader gets the error when it asks for the next event
            self.finish("cancelled")

    def expire(self) -> None:
        """Cancel the step under way if the call's own deadline has passed. Called by the task with the timer."""
        if self._scope is not None and anyio.current_time() >= self._own:
            self._scope.cancel()

    def saw(self, piece: str | Generation) -> None:
        """Record a piece of the answer, and the time of the first one in seconds since the call began."""
        if self.timings.first_token is None:
            self.timings = replace(self.timings, first_token=self.elapsed())
        if isinstance(piece, str):
            self.written += len(piece)

    def estimated(self) -> Usage:
        """Return an estimate of the call's use, for a model that did not report it."""
        return estimate(self.prompt, self.written)

    def finish(self, outcome: str) -> None:
        """Record the end of the call. Idempotent."""
        self._calls._finish(self, outcome)

    def info(self, outcome: str | None = None) -> CallInfo:
        """Return a snapshot of the call."""
        return CallInfo(
            id=self.id,
            method=self.method,
            tenant=self.tenant,
            stage=self.stage,
            elapsed=self.elapsed(),
            waiting_on=(waiting_on(self.task) if self.stepping else READER) if outcome is None else None,
            outcome=outcome,
            degraded=self.findings.stages,
        )

    def failed(self, error: BaseException) -> None:
        """Record that an error ended the call. The error gets the call's id and stage, unless it already has them."""
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
        self.task = task or current_task()
        self._scope = scope = cancel_scope(math.inf if self.timed_by_owner else self._own, task)
        scope.__enter__()
        if self.timed_by_owner and clock() >= self._own:
            scope.cancel()
        self._stages.__enter__()
        self._flow.__enter__()
        if self._inherit is not None:
            self._inherit.__enter__()
        if self.operation is not operations.UNOBSERVED:
            self._step.__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        assert self._scope is not None
        if self.operation is not operations.UNOBSERVED:
            self._step.__exit__()
        if self._inherit is not None:
            self._inherit.__exit__()
        self._flow.__exit__(None, None, None)
        self._stages.__exit__()
        scope, self._scope, self.task = self._scope, None, None
        scope.__exit__(exc_type, exc, traceback)
        if scope.cancelled_caught:
            raise (self._closed() if self._cancelled else self.expired()) from None

    def on_stage(self, stage: str, seconds: float | None) -> None:
        """Record the start of a stage or, with `seconds`, its end."""
        if seconds is None:
            self.stage = stage
        else:
            self.timings = replace(self.timings, **{stage: seconds})

    def on_embedded(self, tokens: int) -> None:
        """Count tokens that were embedded for the call."""
        self.embedded += tokens

    def on_retry(self) -> None:
        """Count a request that is repeated for the call."""
        self.retries += 1

    def stages(self) -> dict[str, float]:
        """Return the seconds of each stage so far, and to the first token, without those that did not run."""
        return {stage: seconds for stage in STAGES if (seconds := getattr(self.timings, stage)) is not None}

    def expired(self) -> DeadlineExceeded:
        """Return the error for a call whose time is used up."""
        elapsed = self.elapsed()
        budget = self.budget or elapsed
        blocked = self._calls.blocked - self._blocked_before
        why = f"; the event loop was blocked for {blocked:.1f} s of that time, see the log" if blocked else ""
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

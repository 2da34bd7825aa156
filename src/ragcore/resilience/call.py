"""One call through a policy: its deadline, its breaker, how often it was tried.

Outermost first: deadline → retry → admission (breaker and bulkhead together) → attempt timeout → call. The breaker is asked before queueing and
again when the turn comes, in the same synchronous step that takes the place; so nothing is held while a retry sleeps, and nobody
waits for a breaker while holding a place. The happy path opens one cancel scope and never enters tenacity.

Source: Polly's resilience pipeline (strategies listed outermost first).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ragcore.errors import CircuitOpen, DeadlineExceeded
from ragcore.events import emit
from ragcore.lifecycle.bound import Bound, inherited
from ragcore.resilience.attempt import Attempt, AttemptTimeout
from ragcore.resilience.breaker import Outcome, Waking
from ragcore.resilience.bulkhead import Bulkhead
from ragcore.resilience.clock import cancel_scope, running
from ragcore.resilience.dependency import Dependency
from ragcore.resilience.failure import Failure, On, judge
from ragcore.resilience.flow import current_flow
from ragcore.resilience.patience import in_line, patience_in_force
from ragcore.resilience.waiter import Flow

__all__ = ["Call"]

T = TypeVar("T")

# Where nothing has succeeded lately: seconds of waiting in vain that count against the dependency, though the caller's time ran out.
LONG_WITHOUT_SUCCESS = 1.0
# An event loop may fire a timer this much before its time.
EARLY = 0.001


class Call:
    """The state of one call. `attempt` and `again` are its two halves."""

    __slots__ = (
        "attempts",
        "began",
        "breaker",
        "cancellations",
        "clock",
        "dependency",
        "flow",
        "given_up",
        "key",
        "last",
        "on",
        "open_by",
        "outer",
        "own_when",
        "patience",
        "task",
    )

    def __init__(self, dependency: Dependency, key: str | None, on: On | None) -> None:
        self.dependency = dependency
        self.key = key
        self.on = dependency.on if dependency.on is not None else OSError if on is None else on
        self.breaker = dependency.breaker
        self.task, self.clock = running()  # as `resume` has it
        self.cancellations = 0 if self.task is None else self.task.cancelling()
        self.began = self.clock()
        self.flow = current_flow.get()
        self.patience = patience_in_force.get()
        self.outer = outer = inherited.get()
        # As `inherit` has it.
        self.own_when = outer.when if outer is not None and outer.when < math.inf else self.began + dependency.timeout
        self.open_by = math.inf
        self.attempts = 0
        self.given_up: Exception | None = None
        self.last: Attempt | None = None
        dependency.calls += 1
        if dependency.budget is not None:
            dependency.budget.deposit()

    def inherit(self) -> None:
        """The call's deadline, whatever anyio's scopes say. Within an attempt it moves while this call waits for a place."""
        outer = self.outer
        inherits = outer is not None and outer.when < math.inf
        self.own_when = outer.when if outer is not None and inherits else self.began + self.dependency.timeout

    def resume(self) -> None:
        """In the task that runs now: a stream may be read by another one than opened it."""
        self.task, self.clock = running()
        self.cancellations = 0 if self.task is None else self.task.cancelling()

    @property
    def when(self) -> float:
        """The call's deadline: what is inherited, by the context or by anyio's scopes, else the policy's own.

        Asked for when something takes long or goes wrong; a call that goes well doesn't pay for the look at the scopes around it, which end
        it in any case.
        """
        effective = anyio.current_effective_deadline()
        inherits = self.outer is not None and self.outer.when < math.inf
        return min(effective, self.own_when) if inherits or effective == math.inf else effective

    @property
    def begins_by(self) -> float:
        """When whatever it waits for must be there: the deadline, or what whoever waits for the first word allows for."""
        by = min(self.when, self.open_by)
        return by if self.patience is None else min(by, self.patience.until)

    @property
    def being_cancelled(self) -> bool:
        """Whether the asyncio task has been asked to cancel since."""
        return self.task is not None and self.task.cancelling() > self.cancellations

    async def attempt(self, fn: Callable[[], Awaitable[T]]) -> T:
        """One attempt: admission, bound, judgement; everything is given back."""
        attempt = self.admit_at_once() or await self.admit()
        try:
            result = await self.bounded(fn, attempt, self.dependency.attempt_timeout)
        except BaseException as error:
            self.failed(attempt, error)
            raise
        attempt.end("success", self.clock())
        return result

    def failed(self, attempt: Attempt, error: BaseException) -> None:
        """Judge a failed attempt and give back what it held, however the judging goes."""
        self.given_up = attempt.given_up
        outcome: Outcome = "neutral"
        try:
            outcome = self.blame(error, attempt)
        finally:
            attempt.end(outcome, self.clock())

    def admit_at_once(self) -> Attempt | None:
        """A place and the breaker's permit in one synchronous step; None, and nothing taken, where there is something to wait for.

        Raises:
            CircuitOpen: the breaker refuses.
        """
        dependency = self.dependency
        if self.key is not None:  # by now it may have been isolated by hand
            self.breaker = dependency.breaker_of(self.key)
        now = self.clock()
        if dependency.pauses.any and dependency.pauses.until(self.key, now) > now:
            return None
        bulkhead = dependency.bulkhead
        if bulkhead is None:
            return self.admitted(None, None, now)
        place = bulkhead.take(self.flow)
        return None if place is None else self.admitted(bulkhead, place, now)

    async def admit(self) -> Attempt:
        """The same, waiting for its turn."""
        dependency, bulkhead = self.dependency, self.dependency.bulkhead
        while True:
            await self.wait_for_pause()
            self.breaker = dependency.breaker_of(self.key)
            if self.breaker is not None:
                self.breaker.check(self.flow)
            place = None if bulkhead is None else bulkhead.take(self.flow) or await self.queue(bulkhead)
            now = self.clock()
            if dependency.pauses.until(self.key, now) <= now:
                return self.admitted(bulkhead, place, now)
            if bulkhead is not None and place is not None:  # paused while it queued
                bulkhead.give_back(place, None, False, now)

    def admitted(self, bulkhead: Bulkhead | None, place: Flow | None, now: float) -> Attempt:
        """With a place taken: the breaker's permit, or the place is given back."""
        try:
            attempt = Attempt(self.dependency.name, bulkhead, place, self.breaker, now, self.flow)
        except BaseException:
            if bulkhead is not None and place is not None:
                bulkhead.give_back(place, None, False, now)
            raise
        self.attempts += 1
        self.last = attempt
        return attempt

    async def queue(self, bulkhead: Bulkhead) -> Flow:
        """Wait for a place, as long as the time allows for a call, or until the breaker opens. No limit of the dependency's runs meanwhile.

        Raises where the place won't come, or would be in vain.
        """
        began = self.clock()
        with in_line():
            self.inherit()
            place_by = math.inf if self.patience is None else self.patience.place_by
            waiter = bulkhead.enqueue(self.when, self.flow, by=place_by)
            try:
                while True:
                    # A breaker that is isolated by hand stands for all its keys.
                    with Waking((self.breaker, self.dependency.breaker), waiter.wake, self.flow):
                        if await bulkhead.wait(waiter):
                            break
                    self.breaker = self.dependency.breaker_of(self.key)
                    if self.breaker is not None:
                        self.breaker.check(self.flow)
            except BaseException:
                bulkhead.give_up(waiter)
                raise
        self.inherit()
        self.open_by += self.clock() - began
        return waiter.flow

    async def wait_for_pause(self) -> None:
        """A 429 paces everyone: wait, as often as it is extended, or say at once that there is no time to."""
        dependency = self.dependency
        while (until := dependency.pauses.until(self.key, now := self.clock())) > now:
            if until >= self.begins_by:
                raise CircuitOpen(
                    f"{dependency} asked to be left alone for another {until - now:.1f} s, which is longer than there is time for",
                    dependency=dependency.name,
                    retry_after=until - now,
                )
            await anyio.sleep(until - now)

    async def bounded(
        self, fn: Callable[[], Awaitable[T]], attempt: Attempt, limit: float, began: float | None = None
    ) -> T:
        """Await `fn()` for at most `limit` seconds since `began`, within the deadline; nested calls inherit the sooner of the two."""
        if began is None:
            began = attempt.began
        own = began + limit
        if own > self.open_by:
            own = self.open_by
        attempt.limit = own
        attempt.latest = self.own_when
        attempt.outer = self.outer
        attempt.when = own if own <= self.own_when else min(own, self.when)
        with cancel_scope(attempt.when, self.task) as scope:
            attempt.scope = scope
            # After the scope: its timer keeps the context in which it was made, and all that is in it, until the event loop turns.
            token = inherited.set(attempt)
            try:
                return await fn()
            finally:
                inherited.reset(token)
        assert scope.cancelled_caught
        waited, own = attempt.limit - own, attempt.limit
        if own <= self.when:
            raise AttemptTimeout(
                f"{self.dependency} did not answer within {self.clock() - began - waited:.1f} s",
                shortened=own < began + waited + limit,
                attempt=attempt,
            )
        raise self.expired("waiting for the answer")

    def blame(self, error: BaseException, attempt: Attempt, began: float | None = None) -> Outcome:
        """Whether the error of an attempt counts against the dependency.

        Args:
            began: when the wait began that ended so; None: the attempt; the time in the queue is not the dependency's.
        """
        if began is None:
            began = attempt.began
        own = isinstance(error, AttemptTimeout) and error.attempt is attempt
        if isinstance(error, AttemptTimeout) and own and not error.shortened:
            return "failure"
        now = self.clock()
        # By deadlines of ours alone: in an anyio scope that is being cancelled, all of anyio's are in the past.
        ran_out = (
            own
            or isinstance(error, DeadlineExceeded)
            or (not isinstance(error, Exception) and now >= self.own_when - EARLY)
            or (not isinstance(error, Exception) and self.patience is not None and self.patience.has_run_out(now))
        )
        if ran_out:
            # Too short a time says nothing about the dependency; one in which most successes would have come does.
            typical = 0.0 if self.breaker is None else self.breaker.typical_duration()
            return "failure" if now - began > (typical or LONG_WITHOUT_SUCCESS) else "neutral"
        if not isinstance(error, Exception) or self.being_cancelled:
            return "neutral"
        failure = judge(self.on, error)
        if failure is None:
            return "neutral"
        if failure.retry_after and not failure.counts:
            self.dependency.pauses.add(self.key, failure.retry_after, now)
            emit("policy.paused", self.dependency.name, seconds=failure.retry_after)
        return "failure" if failure.counts else "neutral"

    async def again(self, error: Exception, attempt: Callable[[], Awaitable[T]]) -> T:
        """After a failed attempt: try again if that makes sense, or let the error out as itself."""
        await self.yield_to_cancellation(error)
        retry = self.dependency.retry
        try:
            if retry is None or self.attempts >= retry.attempts or self.failure(error) is None:
                raise error
            return await retry.run(attempt, first=error, wait=self.wait_before_retry)
        except Exception as last:
            self.give_up(last)
            await self.yield_to_cancellation(last)
            raise

    async def yield_to_cancellation(self, error: Exception) -> None:
        """An error raised while the caller is being cancelled must not swallow the cancellation."""
        await checkpoint_if_cancelled()  # an anyio scope delivers its own
        if self.being_cancelled:
            raise asyncio.CancelledError from error

    def failure(self, error: Exception) -> Failure | None:
        """What makes the error worth another attempt; None if nothing does."""
        if self.given_up is not None and self.given_up in (error, error.__cause__):
            return None
        if isinstance(error, AttemptTimeout) and error.attempt is self.last:
            return Failure()
        failure = judge(self.on, error)
        return failure if failure is not None and failure.retry else None

    def give_up(self, error: Exception) -> None:
        """Tell the attempt around this call, if there is one, that its error has been retried: retries don't multiply."""
        retry = self.dependency.retry
        if self.given_up is None and (retry is None or retry.attempts == 1 or self.failure(error) is None):
            return
        bound: Bound | None = self.outer
        while bound is not None and not isinstance(bound, Attempt):
            bound = bound.outer
        if bound is not None:
            bound.given_up = error

    def wait_before_retry(self, error: Exception) -> float | None:
        """Seconds to wait, or None if another attempt is not allowed, not affordable, or would not fit."""
        dependency, retry = self.dependency, self.dependency.retry
        assert retry is not None
        failure, number = self.failure(error), self.attempts
        if failure is None or number >= retry.attempts or self.being_cancelled:
            return None
        wait = retry.wait_before(number, failure.retry_after)
        if self.clock() + wait >= self.begins_by:
            emit("retry.no_time", dependency.name, attempt=number + 1, wait=wait, error=type(error).__name__)
            return None
        if dependency.budget is not None and not dependency.budget.withdraw():
            emit("retry.budget_empty", dependency.name, attempt=number + 1, error=type(error).__name__)
            return None
        dependency.retries += 1
        emit("retry.attempt", dependency.name, attempt=number + 1, wait=wait, error=type(error).__name__)
        return wait

    def expired(self, what: str) -> DeadlineExceeded:
        """The caller's time is used up."""
        elapsed = self.clock() - self.began
        emit("deadline.exceeded", self.dependency.name, waiting=what, elapsed=elapsed)
        return DeadlineExceeded(
            f"{self.dependency}: the deadline passed while {what}, after {elapsed:.2f} s",
            budget=self.when - self.began,
            elapsed=elapsed,
        )

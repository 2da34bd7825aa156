"""One attempt at a dependency: its place, its permit and its time, all given back in one synchronous step.

This is the one place where an attempt's outcome is known with its duration. An adaptive limit would learn from `end` and set `Bulkhead.limit`;
a hedge would be a second attempt of the same call, admitted only where `admit_at_once` finds room.
"""

from __future__ import annotations

import math

import anyio

from ragcore.events import emit, listening
from ragcore.lifecycle.bound import Bound
from ragcore.resilience.breaker import CircuitBreaker
from ragcore.resilience.bulkhead import Bulkhead
from ragcore.resilience.permit import Outcome
from ragcore.resilience.waiter import Flow

__all__ = ["Attempt", "AttemptTimeout"]


class AttemptTimeout(TimeoutError):
    """An attempt took longer than its own limit. May be retried.

    Attributes:
        shortened: the limit was less than the policy's own, for want of the caller's time: then it counts only if most successes would have
            been in time.
        attempt: whose limit it was: one of another policy's, further in, is just an error.
    """

    def __init__(self, message: str, *, shortened: bool, attempt: Attempt) -> None:
        super().__init__(message)
        self.shortened = shortened
        self.attempt = attempt


class Attempt(Bound):
    """A place and the breaker's leave; ended once, synchronously, so that no cancellation can come between. Nested calls inherit its time.

    Invariant: until `ended` it holds its place; its permit goes with the first verdict, which for a stream is the first item. `end` gives back what is
    left of both in one step.

    Raises:
        CircuitOpen: on making it: the breaker refuses.

    Attributes:
        outcome: as far as it is known.
        ended: whether it has given back what it held.
        limit: until when the dependency may take for what it does now, without the time in queues further in. Set with the next two when that begins.
        latest: the call's deadline, as it was when that began.
        scope: bounds what the dependency does now.
        given_up: the last error that a policy within this attempt let out after its own retries: not to be retried again around it.
    """

    __slots__ = (
        "_breaker",
        "_bulkhead",
        "_flow",
        "_generation",
        "_judged",
        "_name",
        "_paused_at",
        "_pauses",
        "_place",
        "began",
        "ended",
        "given_up",
        "latest",
        "limit",
        "outcome",
        "scope",
    )

    limit: float
    latest: float
    scope: anyio.CancelScope
    _paused_at: float

    began: float
    when: float
    ended: bool

    def __init__(
        self,
        name: str,
        bulkhead: Bulkhead | None,
        place: Flow | None,
        breaker: CircuitBreaker | None,
        began: float,
        flow: str,
    ) -> None:
        self.began = began
        self.given_up: Exception | None = None
        self.outcome: Outcome = "neutral"
        self._name = name
        self._bulkhead = bulkhead
        self._place = place
        self._flow = flow
        self._generation = 0
        self._breaker = breaker
        if breaker is not None:  # or the one that stands for this flow alone
            self._breaker, self._generation = breaker.admit(began, flow)
        self._judged = breaker is None
        self.ended = False
        self._pauses = 0

    def pause(self) -> None:
        """A call within this attempt waits for a place in a queue of ours."""
        self._pauses += 1
        if self._pauses == 1:
            self._paused_at = anyio.current_time()
            self.when = self.scope.deadline = self._call_ends()

    def resume(self) -> None:
        """The wait is over."""
        self._pauses -= 1
        if self._pauses == 0:
            waited = anyio.current_time() - self._paused_at
            self.limit += waited
            self.began += waited
            self.when = self.scope.deadline = min(self.limit, self._call_ends())

    def _call_ends(self) -> float:
        """The call's deadline, which runs on in any case. Where that is the limit of an attempt further out, it has moved with the wait."""
        outer = self.outer
        return self.latest if outer is None or outer.when == math.inf else outer.when

    def judge(self, outcome: Outcome, now: float) -> None:
        """Tell the breaker; only the first time counts, but that a stream which had begun well broke counts as well."""
        if self.outcome == "neutral" or outcome == "failure":
            self.outcome = outcome
        breaker = self._breaker
        if breaker is None:
            return
        if not self._judged:
            self._judged = True
            breaker.end(self._generation, self.began, outcome, now, self._flow)
        elif outcome == "failure":
            breaker.fail_after_success(self._generation, now, self._flow)

    def end(self, outcome: Outcome | None, now: float) -> None:
        """Tell the breaker and give the place back.

        Args:
            outcome: None: as judged before.
        """
        if self.ended:
            return
        self.ended = True
        if outcome is not None:
            self.outcome = outcome
        if not self._judged:
            self.judge(self.outcome, now)
        if self._place is not None and self._bulkhead is not None:
            # A failure says no more of how long an answer takes than that it would have taken longer.
            took = None if self.outcome == "neutral" else now - self.began
            self._bulkhead.line.give_back(self._place, took, self.outcome == "success", now)
        if listening():
            emit("policy.attempt", self._name, outcome=self.outcome, seconds=now - self.began)

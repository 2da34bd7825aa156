"""One attempt at a dependency, with its place, its permit and its time limit. One synchronous step gives all of them back.

Extension points: `end` knows both the outcome and the duration of an attempt, so an adaptive limit could use them to set `Bulkhead.limit`. A hedged
request could be a second attempt of the same call, made only if `admit_at_once` finds a free place.
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
    """An attempt took longer than its own limit. It may be retried.

    Attributes:
        shortened: whether the limit was lower than the policy's, because the caller had less time. Then the timeout counts as a failure only if most
            successful calls take less time than this attempt took.
        attempt: the attempt that timed out. The timeout of a nested policy's attempt is treated as an ordinary error.
    """

    def __init__(self, message: str, *, shortened: bool, attempt: Attempt) -> None:
        super().__init__(message)
        self.shortened = shortened
        self.attempt = attempt


class Attempt(Bound):
    """A place and the breaker's permit for one attempt. It ends once and synchronously, so that no cancellation can interrupt it.

    Nested calls inherit its time limit.

    Invariant: it holds its place until `ended`. The first reported outcome gives the permit back; for a stream, this happens at the first item. `end`
    gives back everything that is still held, in one step.

    Raises:
        CircuitOpen: in the constructor, if the breaker refuses the call.

    Attributes:
        outcome: the outcome so far.
        ended: whether it has given back its place and its permit.
        limit: the point in time by which the dependency must finish its current operation. The time that nested calls spend in queues is added to it.
            `limit`, `latest` and `scope` are set when that operation begins.
        latest: the call's deadline when that operation began.
        scope: the cancel scope around that operation.
        given_up: the last error that a nested policy raised after its own retries. It must not be retried again here.
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
        if breaker is not None:  # `admit` may return this flow's own breaker instead of the policy's
            self._breaker, self._generation = breaker.admit(began, flow)
        self._judged = breaker is None
        self.ended = False
        self._pauses = 0

    def pause(self) -> None:
        """Stop the limit, because a nested call begins to wait for a place in a queue of ragcore."""
        self._pauses += 1
        if self._pauses == 1:
            self._paused_at = anyio.current_time()
            self.when = self.scope.deadline = self._call_ends()

    def resume(self) -> None:
        """Continue the limit, because the wait is over."""
        self._pauses -= 1
        if self._pauses == 0:
            waited = anyio.current_time() - self._paused_at
            self.limit += waited
            self.began += waited
            self.when = self.scope.deadline = min(self.limit, self._call_ends())

    def _call_ends(self) -> float:
        """Return the call's deadline. A wait in a queue moves the deadline only if it comes from the limit of an outer attempt."""
        outer = self.outer
        return self.latest if outer is None or outer.when == math.inf else outer.when

    def judge(self, outcome: Outcome, now: float) -> None:
        """Report the outcome to the breaker. After the first report only a failure counts: for example, a stream broke after a successful start."""
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
        """Report the outcome to the breaker and give the place back.

        Args:
            outcome: the outcome; None: the one that `judge` recorded last.
        """
        if self.ended:
            return
        self.ended = True
        if outcome is not None:
            self.outcome = outcome
        if not self._judged:
            self.judge(self.outcome, now)
        if self._place is not None and self._bulkhead is not None:
            # The duration of a failure is only a lower bound of the time that an answer takes.
            took = None if self.outcome == "neutral" else now - self.began
            self._bulkhead.line.give_back(self._place, took, self.outcome == "success", now)
        if listening("policy.attempt"):
            emit("policy.attempt", self._name, outcome=self.outcome, seconds=now - self.began)

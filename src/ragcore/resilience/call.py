"""The state of one call through a policy.

`admission` takes a place for the call, `verdict` judges the outcomes of its attempts, and `pipeline` combines both for `Policy.call` and for `Hold`.
"""

from __future__ import annotations

import asyncio
import math

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ragcore.errors import DeadlineExceeded
from ragcore.events import emit
from ragcore.lifecycle.bound import Bound, inherited
from ragcore.resilience.attempt import Attempt
from ragcore.resilience.breaker import CircuitBreaker
from ragcore.resilience.clock import Clock, running
from ragcore.resilience.dependency import Dependency
from ragcore.resilience.failure import On
from ragcore.resilience.flow import current_flow
from ragcore.resilience.patience import Pausable, patience_in_force

__all__ = ["Call"]


class Call:
    """The state of one call: its flow, its deadline and its attempts.

    Invariant: a call itself holds no resources. Its attempts hold the places, permits and scopes, and each attempt gives back what it holds. So a call can be
    dropped at any moment, also while it waits.

    Attributes:
        on: the rule that judges an error: the policy's rule, else the component's rule, else `OSError`.
        breaker: the breaker that was found at the last check. After a wait, the check may find another breaker, because keys and flows have their own breakers.
        task, cancellations: on asyncio, the current task and the number of its earlier cancellation requests.
        clock: the event loop's clock.
        began: the time at which the call began.
        flow, patience, outer: the context of the call at that time: the flow, the limit on silence, and the enclosing deadline or attempt.
        own_when: the deadline without the deadlines of anyio's scopes.
        open_by: the point in time by which a stream must be open; infinity for other calls.
        attempts, last: the number of attempts, and the last attempt.
        given_up: the error that a policy within the last attempt raised after its own retries.
    """

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

    dependency: Dependency
    key: str | None
    on: On | type[OSError]
    breaker: CircuitBreaker | None
    began: float
    flow: str
    patience: Pausable | None
    outer: Bound | None
    open_by: float
    attempts: int
    own_when: float
    clock: Clock
    cancellations: int

    def __init__(self, dependency: Dependency, key: str | None, on: On | None) -> None:
        self.dependency = dependency
        self.key = key
        self.on = dependency.on if dependency.on is not None else OSError if on is None else on
        self.breaker = dependency.breaker
        # The same as `resume`. The code of `resume` and `inherit` is repeated here, because a method call would add 5 % to the time of a fast call.
        self.task, self.clock = running()
        self.cancellations = 0 if self.task is None else self.task.cancelling()
        self.began = self.clock()
        self.flow = current_flow.get()
        # The context is read once, here, because a held stream's items may be read in another context.
        self.patience = patience_in_force.get()
        self.outer = outer = inherited.get()
        # The same as `inherit`.
        self.own_when = outer.when if outer is not None and outer.when < math.inf else self.began + dependency.timeout
        self.open_by = math.inf
        self.attempts = 0
        self.given_up: Exception | None = None
        self.last: Attempt | None = None
        dependency.calls += 1
        # Once per call, not per attempt: a retry must not add to the budget.
        if dependency.budget is not None:
            dependency.budget.deposit()

    def inherit(self) -> None:
        """Update `own_when`, the deadline without anyio's scopes. Within an outer attempt, the deadline moves while this call waits for a place."""
        outer = self.outer
        inherits = outer is not None and outer.when < math.inf
        self.own_when = outer.when if outer is not None and inherits else self.began + self.dependency.timeout

    def resume(self) -> None:
        """Continue the call in the current task, because a stream may be read in another task than the one that opened it."""
        self.task, self.clock = running()
        self.cancellations = 0 if self.task is None else self.task.cancelling()

    @property
    def when(self) -> float:
        """The call's deadline: the one inherited from the context or from anyio's scopes, else the one that the policy's timeout sets.

        It is read only after an error or before a wait, because it checks all enclosing scopes. These scopes end a call even if this property is never read.
        """
        self.inherit()
        effective = anyio.current_effective_deadline()
        inherits = self.outer is not None and self.outer.when < math.inf
        # The policy's own timeout applies only if the caller has no deadline. So a user's scope replaces the timeout, even if the scope ends later.
        return min(effective, self.own_when) if inherits or effective == math.inf else effective

    @property
    def begins_by(self) -> float:
        """The point in time by which a wait must be over: the deadline, or an earlier limit for the first piece of the answer."""
        by = min(self.when, self.open_by)
        return by if self.patience is None else min(by, self.patience.until)

    @property
    def being_cancelled(self) -> bool:
        """Whether the cancellation of the asyncio task was requested since the call began or resumed."""
        return self.task is not None and self.task.cancelling() > self.cancellations

    async def yield_to_cancellation(self, error: Exception) -> None:
        """Raise the caller's cancellation instead of an error that replaced it.

        Some drivers convert a cancellation into their own error, and asyncio does not deliver a cancellation twice.
        """
        await checkpoint_if_cancelled()  # raises the cancellation of an anyio scope
        if self.being_cancelled:
            raise asyncio.CancelledError from error

    def expired(self, what: str) -> DeadlineExceeded:
        """Return the error for a deadline that has passed.

        Args:
            what: the step that was not finished, for example "waiting for the answer".
        """
        elapsed = self.clock() - self.began
        emit("deadline.exceeded", self.dependency.name, waiting=what, elapsed=elapsed)
        return DeadlineExceeded(
            f"{self.dependency}: the deadline passed while {what}, after {elapsed:.2f} s",
            budget=self.when - self.began,
            elapsed=elapsed,
        )

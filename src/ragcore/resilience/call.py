"""One call through a policy: what it knows while it lasts.

`admission` finds it a place, `verdict` judges how its attempts ended, `pipeline` puts these together, for `Policy.call` and for `Hold`.
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
    """The state of one call: for whom it is, until when, and how often it was tried.

    Invariant: a call holds nothing itself. Places, permits and scopes are its attempts', and each attempt gives back its own; so a call can be
    dropped at any moment, also while it waits.

    Attributes:
        on: what may pass as a failure of the dependency: the policy's own rule, else the component's, else `OSError`.
        breaker: as it was when last looked at; it may be another one after a wait, since keys and flows have breakers of their own.
        task, cancellations: the task that runs now, on asyncio, and how often it had been asked to cancel before.
        clock: of the event loop.
        began: when the call came.
        flow, patience, outer: what was in force around it then: the flow, the limit on silence, the deadline or attempt further out.
        own_when: its deadline, as far as it is known without looking at anyio's scopes.
        open_by: until when a stream must be open; infinity for all else.
        attempts, last: how many there were, and the last.
        given_up: the error that a policy within the last attempt let out after its own retries.
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
        # As `resume` has it. It stands here again, as the next two lines do: a method costs a call that goes well a twentieth of its time.
        self.task, self.clock = running()
        self.cancellations = 0 if self.task is None else self.task.cancelling()
        self.began = self.clock()
        self.flow = current_flow.get()
        # What surrounds it is looked up once, here: a held stream's items are read where other values are in force.
        self.patience = patience_in_force.get()
        self.outer = outer = inherited.get()
        # As `inherit` has it.
        self.own_when = outer.when if outer is not None and outer.when < math.inf else self.began + dependency.timeout
        self.open_by = math.inf
        self.attempts = 0
        self.given_up: Exception | None = None
        self.last: Attempt | None = None
        dependency.calls += 1
        # Once for a call, not for each attempt: retries must not earn further retries.
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
        self.inherit()
        effective = anyio.current_effective_deadline()
        inherits = self.outer is not None and self.outer.when < math.inf
        # The policy's own timeout is for callers without any deadline: a scope of the user's that is later than it wins as well.
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

    async def yield_to_cancellation(self, error: Exception) -> None:
        """An error raised while the caller is being cancelled must not swallow the cancellation.

        It happens: a driver turns the cancellation that it gets into an error of its own. On asyncio nobody would then deliver it again.
        """
        await checkpoint_if_cancelled()  # an anyio scope delivers its own
        if self.being_cancelled:
            raise asyncio.CancelledError from error

    def expired(self, what: str) -> DeadlineExceeded:
        """The caller's time is used up."""
        elapsed = self.clock() - self.began
        emit("deadline.exceeded", self.dependency.name, waiting=what, elapsed=elapsed)
        return DeadlineExceeded(
            f"{self.dependency}: the deadline passed while {what}, after {elapsed:.2f} s",
            budget=self.when - self.began,
            elapsed=elapsed,
        )

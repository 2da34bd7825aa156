"""How long a dependency may be silent: a limit that stands still while a call waits in a queue of ours.

Time in our own queue says nothing about a dependency. So whoever waits for its first word sets a `Patience` around the wait, and every queue
on the way is waited in `with in_line():`, which stops it, and the limits of the attempts around, until a place is found. The caller's deadline
runs on meanwhile, and bounds the whole.
"""

from __future__ import annotations

import math
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Protocol, Self

import anyio

from ragcore.lifecycle.bound import Bound, inherited

__all__ = ["Patience", "Pausable", "in_line", "patience_in_force"]

# A loop may fire a timer this much before its time.
EARLY = 0.001


class Pausable(Protocol):
    """A limit on the silence of a dependency, as those see it who ask the dependency."""

    @property
    def until(self) -> float:
        """When it runs out; infinity while it stands still."""

    @property
    def place_by(self) -> float:
        """When a place must be found at the latest, since there is another way; infinity if there is none."""

    def pause(self) -> None:
        """A wait for a place begins; waits may overlap."""

    def resume(self) -> None:
        """It is over."""

    def heard(self) -> None:
        """The dependency has begun to answer."""

    def has_run_out(self, now: float) -> bool:
        """Whether the dependency has had all of its time."""


# Set for a block, never across a yield.
patience_in_force: ContextVar[Pausable | None] = ContextVar("ragcore.patience", default=None)


class Patience:
    """A cancel scope for what a dependency does first, `seconds` long without the time in queues of ours.

    Invariant: while a wait for a place is under way (`_pauses` > 0) its scope has no deadline, and `_left` is what was left when the wait began.

    Args:
        seconds: that the dependency may take.
        place_by: when a place must be found at the latest, on `anyio.current_time()`'s clock.

    Attributes:
        seconds: the same.
        waited: seconds spent in queues of ours so far.

    Example:
        >>> async def main() -> bool:
        ...     with Patience(0.01) as patience:
        ...         await anyio.sleep(1)
        ...     return patience.ran_out
        >>> anyio.run(main)
        True
    """

    __slots__ = (
        "_left",
        "_outer",
        "_paused_at",
        "_pauses",
        "_running",
        "_scope",
        "_token",
        "place_by",
        "seconds",
        "waited",
    )

    waited: float
    seconds: float
    place_by: float

    def __init__(self, seconds: float, /, *, place_by: float = math.inf) -> None:
        self.seconds = seconds
        self.place_by = place_by
        self.waited = 0.0
        self._left = seconds
        self._pauses = 0
        self._paused_at = 0.0
        self._running = False
        self._scope = anyio.CancelScope()
        # Taken here already: a patience that is never entered passes on what it is told.
        self._outer = patience_in_force.get()
        self._token: Token[Pausable | None] | None = None

    @property
    def ran_out(self) -> bool:
        """Whether its block was ended by it."""
        return self._scope.cancelled_caught

    @property
    def until(self) -> float:
        """When it runs out; infinity while it stands still."""
        return self._scope.deadline

    def has_run_out(self, now: float) -> bool:
        """Whether the dependency has had all of its time."""
        return self._scope.cancelled_caught or (self._running and now >= self._scope.deadline - EARLY)

    def pause(self) -> None:
        """A wait for a place begins: the time that is left is kept."""
        self._pauses += 1
        if self._pauses == 1:
            self._paused_at = anyio.current_time()
            if self._running:
                self._left = self._scope.deadline - self._paused_at
                self._scope.deadline = math.inf
        if self._outer is not None:
            self._outer.pause()

    def resume(self) -> None:
        """The wait is over: the time that was left runs on."""
        self._pauses -= 1
        if self._pauses == 0:
            now = anyio.current_time()
            self.waited += now - self._paused_at
            if self._running:
                self._scope.deadline = now + self._left
        if self._outer is not None:
            self._outer.resume()

    def heard(self) -> None:
        """The dependency has begun to answer: the limit has done its work."""
        self._running = False
        self._scope.deadline = math.inf

    def __enter__(self) -> Self:
        self._running = True
        if not self._pauses:
            self._scope.deadline = anyio.current_time() + self._left
        self._scope.__enter__()
        self._token = patience_in_force.set(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> bool:
        assert self._token is not None
        patience_in_force.reset(self._token)
        self._running = False
        return bool(self._scope.__exit__(exc_type, exc, traceback))


class in_line:  # noqa: N801  # reads as what it says: `with in_line():`
    """Wait for a place in a queue of ours: meanwhile no limit of a dependency's runs, neither the patience in force nor an attempt's.

    Invariant: its limits have one pause of its own exactly while `_stopped`; so entering or leaving twice does no harm.

    It may be entered again, also from another context: the limits are those that were in force when it was made.
    """

    __slots__ = ("_limits", "_stopped")

    def __init__(self) -> None:
        self._stopped = False
        self._limits: list[Pausable | Bound] = []
        patience = patience_in_force.get()
        if patience is not None:
            self._limits.append(patience)
        bound = inherited.get()
        while bound is not None:
            self._limits.append(bound)
            bound = bound.outer
        # The outermost first: an attempt asks the one around it until when it may take, which has moved by then.
        self._limits.reverse()

    def __enter__(self) -> None:
        if not self._stopped:
            self._stopped = True
            for limit in self._limits:
                limit.pause()

    def __exit__(self, *exc: object) -> None:
        if self._stopped:
            self._stopped = False
            for limit in self._limits:
                limit.resume()

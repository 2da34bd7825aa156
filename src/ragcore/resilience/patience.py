"""Patience: a limit on a dependency's silence. It is paused while a call waits in one of ragcore's queues.

The time in ragcore's own queue says nothing about a dependency. So the code that waits for the first piece of an answer does so in a `Patience` block,
and the code that waits in a queue does so in `with in_line():`. That block pauses the patience and the limits of the enclosing attempts until the call
has a place. The caller's deadline is never paused.
"""

from __future__ import annotations

import math
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Protocol, Self

import anyio

from ragcore.lifecycle.bound import Bound, inherited

__all__ = ["Patience", "Pausable", "in_line", "patience_in_force"]

# An event loop may fire a timer this many seconds early.
EARLY = 0.001


class Pausable(Protocol):
    """A limit on the silence of a dependency, as the code that calls the dependency sees it."""

    @property
    def until(self) -> float:
        """The point in time at which the limit runs out; infinity while it is paused."""

    @property
    def place_by(self) -> float:
        """The latest time at which a place is useful. After that time the caller uses an alternative; infinity if it has no alternative."""

    def pause(self) -> None:
        """Stop the limit, because a wait for a place begins. Waits may overlap."""

    def resume(self) -> None:
        """Continue the limit, because a wait for a place has ended."""

    def heard(self) -> None:
        """End the limit, because the dependency has begun to answer."""

    def has_run_out(self, now: float) -> bool:
        """Return whether the dependency has used all of its time."""


# Set for a block, never across a `yield`.
patience_in_force: ContextVar[Pausable | None] = ContextVar("ragcore.patience", default=None)


class Patience:
    """A cancel scope that limits the dependency's time until it begins to answer. The time in ragcore's queues does not count.

    Invariant: during a wait for a place (`_pauses` > 0) its scope has no deadline, and `_left` is the time that was left when the wait began.

    Args:
        seconds: the time that the dependency may take.
        place_by: the latest time at which a place is useful, on `anyio.current_time()`'s clock.

    Attributes:
        seconds: as given.
        waited: the seconds spent in ragcore's queues so far.

    Examples:
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
        # Set in the constructor, because a patience passes `pause` and `resume` on to the outer one even if it is never entered.
        self._outer = patience_in_force.get()
        self._token: Token[Pausable | None] | None = None

    @property
    def ran_out(self) -> bool:
        """Whether the limit has ended its block."""
        return self._scope.cancelled_caught

    @property
    def until(self) -> float:
        """The point in time at which the limit runs out; infinity while it is paused."""
        return self._scope.deadline

    def has_run_out(self, now: float) -> bool:
        """Return whether the dependency has used all of its time."""
        return self._scope.cancelled_caught or (self._running and now >= self._scope.deadline - EARLY)

    def pause(self) -> None:
        """Stop the limit and keep the time that is left, because a wait for a place begins."""
        self._pauses += 1
        if self._pauses == 1:
            self._paused_at = anyio.current_time()
            if self._running:
                self._left = self._scope.deadline - self._paused_at
                self._scope.deadline = math.inf
        if self._outer is not None:
            self._outer.pause()

    def resume(self) -> None:
        """Continue the limit with the time that was left, because the wait is over."""
        self._pauses -= 1
        if self._pauses == 0:
            now = anyio.current_time()
            self.waited += now - self._paused_at
            if self._running:
                self._scope.deadline = now + self._left
        if self._outer is not None:
            self._outer.resume()

    def heard(self) -> None:
        """End the limit, because the dependency has begun to answer."""
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


class in_line:  # noqa: N801  # reads well in use: `with in_line():`
    """Pause the dependency's limits while the block waits in one of ragcore's queues: the current patience and the limits of enclosing attempts.

    Invariant: the limits are paused exactly once while `_stopped` is true, so the block may be entered or left twice.

    An object may be entered again, also from another context. It always pauses the limits of the context in which it was made.
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
        # The outermost limit comes first: each attempt reads the limit of the enclosing attempt, and that limit must already be extended.
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

"""Deadlines: an absolute point on the event loop's clock, inherited by nested calls.

A length of time given to each step adds up; a point in time does not. So a deadline is set once, at the edge, and everything
below asks how much is left. It travels in a context variable, which is never set across a `yield` to the user.

Source: gRPC, "Deadlines" (https://grpc.io/docs/guides/deadlines/): propagate the remaining time, never restart it.
"""

from __future__ import annotations

import math
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self

import anyio

from ragcore.errors import DeadlineExceeded

__all__ = ["Bound", "Deadline", "deadline", "expires_at", "inherit", "inherited", "reserve", "share"]


class Bound:
    """What nested calls inherit.

    Attributes:
        when: the point in time by which they end, on `anyio.current_time()`'s clock.
        outer: what was inherited around it.
    """

    __slots__ = ("outer", "when")

    def __init__(self, when: float, outer: Bound | None = None) -> None:
        self.when = when
        self.outer = outer

    def pause(self) -> None:
        """A wait for a place in a queue of ours begins. A deadline runs on; a limit of a dependency's stands still meanwhile."""

    def resume(self) -> None:
        """The wait is over."""


inherited: ContextVar[Bound | None] = ContextVar("ragcore.deadline", default=None)


def deadline(seconds: float, /) -> Deadline:
    """Bound a block of awaiting code, and all that ragcore does within it.

    As `anyio.fail_after`, but raises `DeadlineExceeded`, and components see it: they refuse work that has no chance in time.

    Args:
        seconds: from entering the block, positive; an enclosing deadline that is sooner stays in force.

    Example:
        >>> async def main() -> None:
        ...     with deadline(5) as d:
        ...         await anyio.sleep(0)
        ...         assert d.remaining() <= 5
        >>> anyio.run(main)
    """
    return Deadline(seconds)


def reserve(seconds: float, /, *, share: float = 1.0) -> Deadline:
    """A deadline that ends a little before the one around it, so that there is time left for a last resort.

    Args:
        seconds: to keep, at most.
        share: to keep at most this share of what is left, in (0, 1].

    Example:
        >>> async def main() -> str:
        ...     with deadline(10):
        ...         try:
        ...             with reserve(0.5, share=0.1):
        ...                 return "the answer"
        ...         except DeadlineExceeded:
        ...             return "the last resort"
        >>> anyio.run(main)
        'the answer'
    """
    left = expires_at() - anyio.current_time()
    made = Deadline(math.inf)
    if left < math.inf:
        made._budget = max(0.0, left - min(seconds, share * left))
    return made


class Deadline(Bound):
    """A point in time by which a block ends. Made by `deadline(seconds)`; entered once.

    Leaving the block by its own expiry raises `DeadlineExceeded`; a cancellation or an expiry from outside passes through as it is.
    `when` is the enclosing deadline's where that is sooner.
    """

    __slots__ = ("_began", "_budget", "_scope", "_token")

    def __init__(self, seconds: float, /) -> None:
        if not seconds > 0:
            raise ValueError(f"a deadline lies in the future: {seconds!r} s does not")
        super().__init__(math.inf)
        self._budget = seconds
        self._began = 0.0
        self._scope: anyio.CancelScope | None = None
        self._token: Token[Bound | None] | None = None

    @staticmethod
    def current() -> Deadline | None:
        """The deadline in force here, if any."""
        bound = inherited.get()
        if bound is None or isinstance(bound, Deadline):
            return bound
        found = Deadline(math.inf)
        found.when = bound.when
        return found

    def remaining(self) -> float:
        """Seconds left, 0 once it has passed; an enclosing anyio scope's deadline counts as well."""
        at = min(self.when, anyio.current_effective_deadline())
        return max(0.0, at - anyio.current_time())

    def __enter__(self) -> Self:
        if self._scope is not None:
            raise RuntimeError("a Deadline is entered once: make another with deadline(seconds)")
        self._began = anyio.current_time()
        own = self._began + self._budget
        self.outer = inherited.get()
        self.when = own if self.outer is None else min(own, self.outer.when)
        self._scope = anyio.CancelScope(deadline=own)
        self._scope.__enter__()
        self._token = inherited.set(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        assert self._scope is not None
        assert self._token is not None
        inherited.reset(self._token)
        self._scope.__exit__(exc_type, exc, traceback)
        if self._scope.cancelled_caught:  # nobody else can cancel this scope, so it has expired
            elapsed = anyio.current_time() - self._began
            raise DeadlineExceeded(
                f"not done within {self._budget:g} s (stopped after {elapsed:.2f} s)",
                budget=self._budget,
                elapsed=elapsed,
            ) from None


class inherit:  # noqa: N801  # reads as a verb: `with inherit(when):`
    """Set the deadline that nested calls see, without a cancel scope: for whoever bounds the block by a scope of its own."""

    __slots__ = ("_token", "_when")

    def __init__(self, when: float | None, /) -> None:
        self._when = when

    def __enter__(self) -> None:
        self._token = inherited.set(None if self._when is None else Bound(self._when, inherited.get()))

    def __exit__(self, *exc: object) -> None:
        inherited.reset(self._token)


def expires_at() -> float:
    """The sooner of the inherited deadline and the enclosing anyio scopes', as a point in time; infinity if there is none."""
    bound = inherited.get()
    effective = anyio.current_effective_deadline()
    return effective if bound is None else min(bound.when, effective)


def share(part: float, /, *, most: float) -> float:
    """Seconds that a step may take after which there must be time for another: at most `most`, and this part of what is left."""
    return min(most, part * max(0.0, expires_at() - anyio.current_time()))

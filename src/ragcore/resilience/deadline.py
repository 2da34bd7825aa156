"""Deadlines: an absolute point on the event loop's clock, inherited by nested calls.

A length of time given to each step adds up; a point in time does not. So a deadline is set once, at the edge, and everything
below asks how much is left. It travels in a context variable, which is never set across a `yield` to the user.

Source: gRPC, "Deadlines" (https://grpc.io/docs/guides/deadlines/): propagate the remaining time, never restart it.
"""

from __future__ import annotations

import math
from contextvars import Token
from types import TracebackType
from typing import Self

import anyio

from ragcore.errors import DeadlineExceeded
from ragcore.lifecycle.bound import Bound, expires_at, inherited

__all__ = ["Deadline", "deadline", "reserve", "share"]


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

    outer: Bound | None
    when: float

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


def share(part: float, /, *, most: float) -> float:
    """Seconds that a step may take after which there must be time for another: at most `most`, and this part of what is left."""
    return min(most, part * max(0.0, expires_at() - anyio.current_time()))

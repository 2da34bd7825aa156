"""Deadlines: absolute points in time on the event loop's clock, inherited by nested calls.

Timeouts of single steps add up; a deadline does not. So the outermost code sets the deadline once, and nested calls check how much time is left.
The deadline is stored in a context variable, which is never set across a `yield` to the user.

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
    """Limit the time of a block of async code, and of all calls of ragcore within it.

    Like `anyio.fail_after`, but it raises `DeadlineExceeded`, and components read the deadline: they refuse calls that can't finish in time.

    Args:
        seconds: the time from entering the block, positive. An earlier deadline of an enclosing block still applies.

    Examples:
        >>> async def main() -> None:
        ...     with deadline(5) as d:
        ...         await anyio.sleep(0)
        ...         assert d.remaining() <= 5
        >>> anyio.run(main)
    """
    return Deadline(seconds)


def reserve(seconds: float, /, *, share: float = 1.0) -> Deadline:
    """Return a deadline that ends before the enclosing one, so that time is left for a last resort.

    Args:
        seconds: the largest number of seconds to keep.
        share: the largest share of the remaining time to keep, in (0, 1].

    Examples:
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
    """A point in time by which a block ends. Use `deadline(seconds)` to make one; it can be entered once.

    If this deadline expires, the block raises `DeadlineExceeded`. A cancellation from outside, or the expiry of an outer deadline, passes through
    unchanged. If an enclosing deadline is earlier, `when` is that deadline.
    """

    __slots__ = ("_began", "_budget", "_scope", "_token")

    outer: Bound | None
    when: float

    def __init__(self, seconds: float, /) -> None:
        if not seconds > 0:
            raise ValueError(f"a deadline must lie in the future, but it is {seconds!r} s: use a positive number")
        super().__init__(math.inf)
        self._budget = seconds
        self._began = 0.0
        self._scope: anyio.CancelScope | None = None
        self._token: Token[Bound | None] | None = None

    @staticmethod
    def current() -> Deadline | None:
        """Return the current deadline; None if there is none."""
        bound = inherited.get()
        if bound is None or isinstance(bound, Deadline):
            return bound
        found = Deadline(math.inf)
        found.when = bound.when
        return found

    def remaining(self) -> float:
        """Return the seconds left; 0 after the deadline. The deadlines of enclosing anyio scopes count as well."""
        at = min(self.when, anyio.current_effective_deadline())
        return max(0.0, at - anyio.current_time())

    def __enter__(self) -> Self:
        if self._scope is not None:
            raise RuntimeError("a Deadline can be entered only once: make another with deadline(seconds)")
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
        if self._scope.cancelled_caught:  # no other code can cancel this scope, so it has expired
            elapsed = anyio.current_time() - self._began
            raise DeadlineExceeded(
                f"deadline exceeded: not finished within {self._budget:g} s (stopped after {elapsed:.2f} s)",
                budget=self._budget,
                elapsed=elapsed,
            ) from None


def share(part: float, /, *, most: float) -> float:
    """Return a time limit for a step, in seconds, that leaves time for the next step: `part` of the remaining time, at most `most`."""
    return min(most, part * max(0.0, expires_at() - anyio.current_time()))

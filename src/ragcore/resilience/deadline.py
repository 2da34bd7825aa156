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

__all__ = ["Deadline", "deadline"]

_current: ContextVar[Deadline | None] = ContextVar("ragcore.deadline", default=None)


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


class Deadline:
    """A point in time by which a block ends. Made by `deadline(seconds)`; entered once.

    Leaving the block by its own expiry raises `DeadlineExceeded`; a cancellation or an expiry from outside passes through as it is.
    """

    __slots__ = ("_at", "_began", "_budget", "_scope", "_token")

    def __init__(self, seconds: float, /) -> None:
        if not seconds > 0:
            raise ValueError(f"a deadline lies in the future: {seconds!r} s does not")
        self._budget = seconds
        self._at = math.inf
        self._began = 0.0
        self._scope: anyio.CancelScope | None = None
        self._token: Token[Deadline | None] | None = None

    @staticmethod
    def current() -> Deadline | None:
        """The deadline in force here, if any."""
        return _current.get()

    @staticmethod
    def at(when: float, /) -> Deadline:
        """A deadline at a point of `anyio.current_time()`, to be inherited with `inherit` rather than entered."""
        made = Deadline.__new__(Deadline)  # one for each attempt: it has a point in time and nothing to enter
        made._at = when
        return made

    @property
    def when(self) -> float:
        """The point in time, on `anyio.current_time()`'s clock; the enclosing deadline's where that is sooner."""
        return self._at

    def remaining(self) -> float:
        """Seconds left, 0 once it has passed; an enclosing anyio scope's deadline counts as well."""
        at = min(self._at, anyio.current_effective_deadline())
        return max(0.0, at - anyio.current_time())

    def __enter__(self) -> Self:
        if self._scope is not None:
            raise RuntimeError("a Deadline is entered once: make another with deadline(seconds)")
        self._began = anyio.current_time()
        own = self._began + self._budget
        outer = _current.get()
        self._at = own if outer is None else min(own, outer._at)
        self._scope = anyio.CancelScope(deadline=own)
        self._scope.__enter__()
        self._token = _current.set(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        assert self._scope is not None
        assert self._token is not None
        _current.reset(self._token)
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

    __slots__ = ("_deadline", "_token")

    def __init__(self, when: float | None, /) -> None:
        self._deadline = None if when is None else Deadline.at(when)

    def __enter__(self) -> None:
        self._token = _current.set(self._deadline)

    def __exit__(self, *exc: object) -> None:
        _current.reset(self._token)


def expires_at() -> float:
    """The sooner of the inherited deadline and the enclosing anyio scopes', as a point in time; infinity if there is none."""
    inherited = _current.get()
    effective = anyio.current_effective_deadline()
    return effective if inherited is None else min(inherited._at, effective)

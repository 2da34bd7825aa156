"""The point in time by which nested work ends, as everything below sees it: a context variable, which is never set across a `yield` to the user.

`resilience.deadline` sets it; what cleans up, waits or asks a dependency reads it.
"""

from __future__ import annotations

from contextvars import ContextVar

import anyio

__all__ = ["Bound", "expires_at", "inherit", "inherited"]


class Bound:
    """What nested calls inherit.

    Attributes:
        when: the point in time by which they end, on `anyio.current_time()`'s clock.
        outer: what was inherited around it.
    """

    __slots__ = ("outer", "when")

    when: float
    outer: Bound | None

    def __init__(self, when: float, outer: Bound | None = None) -> None:
        self.when = when
        self.outer = outer

    def pause(self) -> None:
        """A wait for a place in a queue of ours begins. A deadline runs on; a limit of a dependency's stands still meanwhile."""

    def resume(self) -> None:
        """The wait is over."""


inherited: ContextVar[Bound | None] = ContextVar("ragcore.deadline", default=None)


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

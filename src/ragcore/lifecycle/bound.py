"""The deadline that nested calls inherit: a context variable, which is never set across a `yield` to the user.

`resilience.deadline` sets it. Code that cleans up, waits or calls a dependency reads it.
"""

from __future__ import annotations

from contextvars import ContextVar

import anyio
from anyio.lowlevel import checkpoint

__all__ = ["Bound", "expires_at", "inherit", "inherited", "yield_to_scope"]


class Bound:
    """A deadline that nested calls inherit.

    Attributes:
        when: the point in time by which they end, on `anyio.current_time()`'s clock.
        outer: the enclosing bound; None if there is none.
    """

    __slots__ = ("outer", "when")

    when: float
    outer: Bound | None

    def __init__(self, when: float, outer: Bound | None = None) -> None:
        self.when = when
        self.outer = outer

    def pause(self) -> None:
        """Handle the start of a wait for a place in a queue of ragcore. A deadline continues during the wait; the limit of an attempt is paused."""

    def resume(self) -> None:
        """Handle the end of that wait."""


inherited: ContextVar[Bound | None] = ContextVar("ragcore.deadline", default=None)


class inherit:  # noqa: N801  # reads as a verb: `with inherit(when):`
    """Set the deadline that nested calls inherit, without a cancel scope. Use it if another scope already limits the block."""

    __slots__ = ("_token", "_when")

    def __init__(self, when: float | None, /) -> None:
        self._when = when

    def __enter__(self) -> None:
        self._token = inherited.set(None if self._when is None else Bound(self._when, inherited.get()))

    def __exit__(self, *exc: object) -> None:
        inherited.reset(self._token)


def expires_at() -> float:
    """Return the earlier of the inherited deadline and the deadline of the enclosing anyio scopes; infinity if there is none."""
    bound = inherited.get()
    effective = anyio.current_effective_deadline()
    return effective if bound is None else min(bound.when, effective)


async def yield_to_scope() -> None:
    """If the deadline of an enclosing anyio scope has passed, let that scope cancel the current task.

    Call it before you raise an error about the deadline: otherwise, a busy event loop decides whether a caller in `anyio.move_on_after` sees that error or its
    own scope's end. The scope's timer runs within the next two steps of the loop.
    """
    if anyio.current_effective_deadline() <= anyio.current_time():
        await checkpoint()
        await checkpoint()

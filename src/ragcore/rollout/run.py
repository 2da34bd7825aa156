"""One call of one side, in a task of the rollout."""

from __future__ import annotations

import contextvars
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

from ragcore.errors import DeadlineExceeded, InvalidInput, LimitExceeded, NotOpen
from ragcore.lifecycle.bound import inherit
from ragcore.lifecycle.owner import Owner
from ragcore.rollout.evidence import Outcome, Side

__all__ = ["GRACE", "Run"]

R = TypeVar("R")

# A call that has not returned this many seconds after its time was over has hung. A client's watchdog uses the same rule.
GRACE = 1.0


class Run(Generic[R]):
    """One call of one side, in a task of the rollout, so that a caller never waits for a side that ignores its time limit or its cancellation.

    The side gets its time limit as `timeout=` and as the deadline around the call. It is cancelled one second after that time: otherwise a side that hangs
    could not be distinguished from a side that respects its limit.

    Args:
        side: the side.
        call: function that makes the call; it gets the seconds that the call may take.
        seconds: the time limit.
        limit: the seconds that the candidate has or would have for the call. Default: no limit.
        deadline: the deadline that the call inherits. None: the end of its time limit. A later one is for a stream, of which the time limit concerns only the
            first piece: the side does not know that limit, so the call has hung only one second after the deadline.

    Attributes:
        until: the time by which the side should have returned.
        value: the side's answer, if `is_ok`.
        error: the side's error; None if there is none.
    """

    value: R

    def __init__(
        self,
        side: Side,
        call: Callable[[float], Awaitable[R]],
        seconds: float,
        *,
        limit: float = math.inf,
        deadline: float | None = None,
    ) -> None:
        self.side = side
        self.limit: float = limit
        self.began: float = anyio.current_time()
        self.until: float = self.began + seconds
        self.deadline: float = self.until if deadline is None else deadline
        self.is_ok: bool = False
        self.error: Exception | None = None
        self.ended: float | None = None
        self._call = call
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()

    def start(self, owner: Owner) -> None:
        """Start the call in the caller's context, which contains the actor of the audit log and the span of a trace."""
        owner.spawn(self._work, name=f"{self.side} call", context=contextvars.copy_context())

    async def wait(self, until: float) -> bool:
        """Wait until the call has ended or the time is `until`. Return whether it has ended."""
        with anyio.CancelScope(deadline=until):
            await self._done.wait()
        return self._done.is_set()

    def cancel(self) -> None:
        """Cancel the call. Does not wait for its end."""
        self._scope.cancel()

    @property
    def blames_the_caller(self) -> bool:
        """Whether the call was refused because of its arguments or its tenant's limits. Such a call is not evidence about the side."""
        return isinstance(self.error, InvalidInput | LimitExceeded)

    @property
    def seconds(self) -> float:
        """Seconds that the call took."""
        return (anyio.current_time() if self.ended is None else self.ended) - self.began

    @property
    def outcome(self) -> Outcome | None:
        """How the call ended; None if it is not evidence about the side, because it was cancelled or blames the caller."""
        if self.is_ok:
            return "degraded" if getattr(self.value, "degraded", ()) else "ok"
        if self.error is None or self.blames_the_caller:
            return None
        return "late" if isinstance(self.error, DeadlineExceeded | TimeoutError) else "failed"

    def failure(self) -> Exception:
        """Return the error of a call that has ended without an answer."""
        return self.error or NotOpen("the rollout was closed during the call")

    async def _work(self) -> None:
        try:
            with self._scope, inherit(self.deadline):
                self.value = await self._call(self.until - self.began)
                self.is_ok = True
        except Exception as error:
            self.error = error
        finally:
            self.ended = anyio.current_time()
            self._done.set()

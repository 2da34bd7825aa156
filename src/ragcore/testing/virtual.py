"""An asyncio event loop whose clock jumps: a minute of waiting takes no time, and nothing depends on how quick the machine is."""

from __future__ import annotations

import asyncio
import selectors

__all__ = ["VirtualLoop"]

# How long to wait, in real time, for a thread to come back when nothing else is left to do.
REAL_SECONDS = 5.0
# Must exceed the spacing of floats at the times that occur, or the loop spins before a timer.
RESOLUTION = 1e-6


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with virtual time, for `anyio.run(…, backend_options={"loop_factory": VirtualLoop})` and the `anyio_backend` fixture.

    When nothing is ready, the clock jumps to the next timer. Timers of one moment fire in no particular order. Threads run in real time, so
    a timer may overtake them. When nothing is left to wait for, it raises instead of hanging.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self))
        self._clock_resolution = RESOLUTION

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Move the clock on."""
        self._now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            ready = super().select(REAL_SECONDS)
            if not ready:
                raise RuntimeError(
                    "deadlock: all tasks wait, and there is neither a timer nor a thread that could wake one"
                )
            return ready
        self._loop.jump(timeout)
        return []

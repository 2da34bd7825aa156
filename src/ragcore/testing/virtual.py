"""An asyncio event loop with virtual time: waiting for a minute takes no real time, and results don't depend on the machine's speed."""

from __future__ import annotations

import asyncio
import selectors

__all__ = ["VirtualLoop"]

# Real seconds to wait for a thread when the loop has nothing else to do.
REAL_SECONDS = 5.0
# The clock's resolution must exceed the rounding error of the virtual time. Otherwise the loop would spin shortly before a timer is due.
RESOLUTION = 1e-6


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with virtual time, for `anyio.run(…, backend_options={"loop_factory": VirtualLoop})` and the `anyio_backend` fixture.

    When nothing is ready, the clock jumps to the next timer. Timers for the same moment fire in no particular order. Threads run in real
    time, so a timer may fire before a thread ends. If there is nothing to wait for, the loop raises RuntimeError instead of hanging.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self))
        self._clock_resolution = RESOLUTION

    def time(self) -> float:
        """Return the virtual seconds since the loop was created."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Advance the clock."""
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
                raise RuntimeError("deadlock: all tasks wait, and no timer or thread can wake them")
            return ready
        self._loop.jump(timeout)
        return []

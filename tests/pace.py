"""Time limits that grow while the machine is busy."""

from __future__ import annotations

import time

__all__ = ["in_time", "slowness"]

# Seconds of CPU time: long enough that the scheduler also runs other processes.
WORK_SECONDS = 0.05
# Limits grow at most by this factor. On a slower machine, measured times mean nothing.
SLOWEST = 20.0


def in_time(seconds: float, limit: float) -> bool:
    """Return whether `seconds` is within the limit, or within the limit times the current slowness of this machine.

    The slowness is measured only after a missed limit, so on a quiet machine the limit holds exactly.
    """
    return seconds < limit or seconds < limit * min(slowness(), SLOWEST)


def slowness() -> float:
    """Return wall time divided by CPU time of some work: 1 on a quiet machine, about 7 with 15 busy processes on 2 cores."""
    began, end = time.perf_counter(), time.thread_time() + WORK_SECONDS
    while time.thread_time() < end:
        sum(range(1_000))
    return max(1.0, (time.perf_counter() - began) / WORK_SECONDS)

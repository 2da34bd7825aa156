"""Limits of real time, as long as this machine needs for them while it is busy with other things."""

from __future__ import annotations

import time

__all__ = ["in_time", "slowness"]

# Of a core: long enough that a scheduler gives others their turn meanwhile.
WORK_SECONDS = 0.05
# A machine this much slower than a quiet one tells nothing about time.
SLOWEST = 20.0


def in_time(seconds: float, limit: float) -> bool:
    """Whether something that took so long was in time: within the limit, or within as many times the limit as this machine is slow now.

    How slow it is is measured only where the limit was missed, so a test on a quiet machine is as strict as its number.
    """
    return seconds < limit or seconds < limit * min(slowness(), SLOWEST)


def slowness() -> float:
    """How much longer work takes than its own time of a core: 1 on a quiet machine, about 7 with 15 busy processes on 2 cores."""
    began, end = time.perf_counter(), time.thread_time() + WORK_SECONDS
    while time.thread_time() < end:
        sum(range(1_000))
    return max(1.0, (time.perf_counter() - began) / WORK_SECONDS)

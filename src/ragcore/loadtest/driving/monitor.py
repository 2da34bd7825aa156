"""What processes use while questions are asked, and whether the driver itself was the bottleneck."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from ragcore.loadtest.estimates import percentile

if TYPE_CHECKING:
    import psutil

__all__ = ["Driving", "Monitor", "Sample", "cpu_seconds", "driving", "monitored", "resident_mb"]

PERIOD = 0.25
TICK = 0.01
# A driver that starts questions, or turns its loop, later than this at the 99th percentile measures itself: seconds, and of the median answer.
MOST_LAG = 0.05
MOST_LAG_SHARE = 0.1
# Of one core: a driver at that is at its end.
MOST_CPU = 0.9
PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment.

    Attributes:
        at: seconds since the run began.
        rss_mb: resident memory; None: not to be had.
        cpu: cores used since the sample before.
        asked: questions ended so far.
    """

    at: float
    rss_mb: float | None
    cpu: float | None
    asked: int


def resident_mb(pid: int) -> float | None:
    """Resident memory of a process, where the machine tells."""
    try:
        return int((PROC / f"{pid}/statm").read_text().split()[1]) * PAGE / 1024 / 1024
    except (OSError, IndexError, ValueError):
        return _by_psutil(pid, lambda process: process.memory_info().rss / 1024 / 1024)


def cpu_seconds(pid: int) -> float | None:
    """Processor time of a process so far, where the machine tells."""
    try:
        fields = (PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    except (OSError, IndexError, ValueError):
        return _by_psutil(pid, lambda process: process.cpu_times().user + process.cpu_times().system)


def _by_psutil(pid: int, read: Callable[[psutil.Process], float]) -> float | None:
    """On a machine without /proc, if psutil is installed. Process 0 stands for none."""
    if not pid or (PROC / "self").exists():
        return None
    try:
        import psutil
    except ImportError:
        return None
    try:
        return read(psutil.Process(pid))
    except psutil.Error:
        return None


@dataclass
class Monitor:
    """Samples of one process."""

    pid: int
    now: Callable[[], float]
    asked: Callable[[], int]
    samples: list[Sample] = field(default_factory=list)

    async def run(self) -> None:
        """Until cancelled."""
        last, used = self.now(), cpu_seconds(self.pid)
        while True:
            await anyio.sleep(PERIOD)
            now, cpu = self.now(), cpu_seconds(self.pid)
            cores = None if used is None or cpu is None or now <= last else (cpu - used) / (now - last)
            self.samples.append(Sample(now, resident_mb(self.pid), cores, self.asked()))
            last, used = now, cpu


@asynccontextmanager
async def monitored(pid: int, *, now: Callable[[], float], asked: Callable[[], int]) -> AsyncIterator[list[Sample]]:
    """Samples of a process, growing while the block runs."""
    monitor = Monitor(pid, now, asked)
    async with anyio.create_task_group() as group:
        group.start_soon(monitor.run)
        yield monitor.samples
        group.cancel_scope.cancel()


@dataclass
class Driving:
    """The driver's own part.

    Attributes:
        shared: the target runs in the driver's process, so that its work is the driver's too.
        lags: seconds by which the event loop turned too late.
        cpu: cores that the driver's process used.
    """

    shared: bool
    lags: list[float] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def lag_p99(self) -> float:
        """Seconds; 0 where nothing was measured."""
        return percentile(self.lags, 0.99) if self.lags else 0.0

    def judge(self, median: float, *, lateness: float = 0.0, open_loop: bool = False) -> str | None:
        """Why the figures may be the driver's own and not the target's; None: they are the target's.

        Args:
            median: seconds of an answer.
            lateness: seconds by which questions were sent too late, at the 99th percentile.
            open_loop: questions are sent at a rate; a closed loop takes what it gets, so a busy processor alone says nothing there.
        """
        late, most = max(lateness, 0.0 if self.shared else self.lag_p99), max(MOST_LAG, MOST_LAG_SHARE * median)
        if late > most:
            return f"driver lag p99 was {1000 * late:.0f} ms (limit {1000 * most:.0f} ms); latencies include the driver's own delay"
        if open_loop and not self.shared and self.cpu > MOST_CPU:
            return f"the driver used {self.cpu:.0%} of a core: it may have been the bottleneck"
        return None


@asynccontextmanager
async def driving(*, shared: bool) -> AsyncIterator[Driving]:
    """Watch the driver's own process while the block runs."""
    measured = Driving(shared)
    began, used = anyio.current_time(), time.process_time()

    async def watch() -> None:
        while True:
            due = anyio.current_time() + TICK
            await anyio.sleep(TICK)
            late = max(0.0, anyio.current_time() - due)
            # A stall of a second is one turn of the loop, but a hundred ticks that came too late.
            measured.lags.extend(late - number * TICK for number in range(1 + int(late / TICK)))

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            yield measured
        finally:
            group.cancel_scope.cancel()
            measured.cpu = (time.process_time() - used) / max(1e-9, anyio.current_time() - began)

"""Measures the memory and CPU of processes during a run, and checks whether the driver was the bottleneck."""

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
# Limits for the 99th percentile of the driver's lag: in seconds, and as a share of the median latency. A lag above both distorts the latencies.
MOST_LAG = 0.05
MOST_LAG_SHARE = 0.1
# The driver's limit, as a share of one core: a driver that uses more may be the bottleneck.
MOST_CPU = 0.9
PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory and CPU of a process at one moment.

    Attributes:
        at: seconds since the run began.
        rss_mb: resident memory; None: not available.
        cpu: mean number of cores used since the previous sample; None: not available.
        asked: number of questions that have ended.
    """

    at: float
    rss_mb: float | None
    cpu: float | None
    asked: int


def resident_mb(pid: int) -> float | None:
    """Return resident memory of a process in MB; None if it is not available."""
    try:
        return int((PROC / f"{pid}/statm").read_text().split()[1]) * PAGE / 1024 / 1024
    except (OSError, IndexError, ValueError):
        return _by_psutil(pid, lambda process: process.memory_info().rss / 1024 / 1024)


def cpu_seconds(pid: int) -> float | None:
    """Return CPU time that a process has used, in seconds; None if it is not available."""
    try:
        fields = (PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    except (OSError, IndexError, ValueError):
        return _by_psutil(pid, lambda process: process.cpu_times().user + process.cpu_times().system)


def _by_psutil(pid: int, read: Callable[[psutil.Process], float]) -> float | None:
    """Read a value with psutil, on a machine without /proc; None if psutil is not installed. Process 0 means no process."""
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
    """Takes samples of one process."""

    pid: int
    now: Callable[[], float]
    asked: Callable[[], int]
    samples: list[Sample] = field(default_factory=list)

    async def run(self) -> None:
        """Take samples until cancelled."""
        last, used = self.now(), cpu_seconds(self.pid)
        while True:
            await anyio.sleep(PERIOD)
            now, cpu = self.now(), cpu_seconds(self.pid)
            cores = None if used is None or cpu is None or now <= last else (cpu - used) / (now - last)
            self.samples.append(Sample(now, resident_mb(self.pid), cores, self.asked()))
            last, used = now, cpu


@asynccontextmanager
async def monitored(pid: int, *, now: Callable[[], float], asked: Callable[[], int]) -> AsyncIterator[list[Sample]]:
    """Yield the samples of a process; the list grows while the block runs."""
    monitor = Monitor(pid, now, asked)
    async with anyio.create_task_group() as group:
        group.start_soon(monitor.run)
        yield monitor.samples
        group.cancel_scope.cancel()


@dataclass
class Driving:
    """The load of the driver's own process.

    Attributes:
        shared: whether the target runs in the driver's process, so that both share the event loop.
        lags: delays of the event loop, in seconds.
        cpu: cores that the driver's process used.
    """

    shared: bool
    lags: list[float] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def lag_p99(self) -> float:
        """The 99th percentile of the lags in seconds; 0 without measurements."""
        return percentile(self.lags, 0.99) if self.lags else 0.0

    def judge(self, median: float, *, lateness: float = 0.0, open_loop: bool = False) -> str | None:
        """Return why the driver may have distorted the figures; None if it did not.

        Args:
            median: median latency of the answers, in seconds.
            lateness: 99th percentile of the delay with which questions were sent, in seconds.
            open_loop: whether questions are sent at a rate. In a closed loop a busy driver only sends fewer questions, so its CPU is not judged.
        """
        late, most = max(lateness, 0.0 if self.shared else self.lag_p99), max(MOST_LAG, MOST_LAG_SHARE * median)
        if late > most:
            return f"driver lag p99 was {1000 * late:.0f} ms (limit {1000 * most:.0f} ms); latencies include the driver's own delay"
        if open_loop and not self.shared and self.cpu > MOST_CPU:
            return f"the driver used {self.cpu:.0%} of a core: it may have been the bottleneck"
        return None


@asynccontextmanager
async def driving(*, shared: bool) -> AsyncIterator[Driving]:
    """Measure the driver's own process while the block runs."""
    measured = Driving(shared)
    began, used = anyio.current_time(), time.process_time()

    async def watch() -> None:
        while True:
            due = anyio.current_time() + TICK
            await anyio.sleep(TICK)
            late = max(0.0, anyio.current_time() - due)
            # If the event loop is blocked for several ticks, each of these ticks counts as late, not only one.
            measured.lags.extend(late - number * TICK for number in range(1 + int(late / TICK)))

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            yield measured
        finally:
            group.cancel_scope.cancel()
            measured.cpu = (time.process_time() - used) / max(1e-9, anyio.current_time() - began)

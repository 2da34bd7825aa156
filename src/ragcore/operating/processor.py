"""How long a thread has waited for a processor. Linux counts it for each thread (`/proc`, schedstat); elsewhere nothing is known."""

from __future__ import annotations

import time
from dataclasses import dataclass

__all__ = ["Sample", "ThreadMeter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the system says of a thread at one moment.

    Args:
        at: the moment, in seconds of `time.perf_counter`.
        ran: the seconds for which the thread has run so far.
        waited: the seconds for which it has waited for a processor so far. A wait is added when it ends.
        runnable: whether the thread runs or waits for a processor now. False: it sleeps, or waits for I/O or a lock.
    """

    at: float
    ran: float = 0.0
    waited: float = 0.0
    runnable: bool = False


class ThreadMeter:
    """Measures how long a thread has waited for a processor since `restart`.

    The system adds a wait to its count only when it ends, so a thread that waits at this moment seems not to wait at all. The current wait is found from
    samples: a thread that is runnable at two samples and has not run between them has waited.

    Its methods read files of `/proc`, so they don't belong on an event loop. Call `restart` first.

    Args:
        native_thread: the system's number of the thread, as `threading.get_native_id` returns it.
    """

    def __init__(self, native_thread: int) -> None:
        self._native_thread = native_thread
        self._first = self._last = Sample(at=0.0)
        self._was_runnable = False
        self._seen = 0.0

    def restart(self) -> None:
        """Begin a measurement. The thread has something to do from now on."""
        self._first = self._last = self.sample()
        self._was_runnable = True
        self._seen = 0.0

    def waited(self) -> float:
        """Take a sample, and return the seconds of waiting since `restart`. Call it at each check: the waits between samples are added up."""
        last, sample = self._last, self.sample()
        if self._was_runnable and sample.runnable:
            self._seen += max(0.0, (sample.at - last.at) - (sample.ran - last.ran))
        self._last, self._was_runnable = sample, sample.runnable
        return max(self._seen, sample.waited - self._first.waited)

    def sample(self) -> Sample:
        """Return what the system says of the thread now."""
        now = time.perf_counter()
        folder = f"/proc/self/task/{self._native_thread}"
        try:
            with open(f"{folder}/schedstat", encoding="ascii") as file:
                ran, waited, *_ = file.read().split()
            with open(f"{folder}/stat", encoding="utf-8", errors="replace") as file:
                # The name of the thread is in brackets and may have spaces; the state follows it (proc_pid_stat(5)).
                state = file.read().rpartition(")")[2].split()[0]
            return Sample(at=now, ran=int(ran) / 1e9, waited=int(waited) / 1e9, runnable=state == "R")
        except (OSError, ValueError, IndexError):
            return Sample(at=now)

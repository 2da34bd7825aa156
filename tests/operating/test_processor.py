"""How long a thread has waited for a processor: a wait that has not ended counts too, and sleep and computing never do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ragcore.operating.processor import Sample, ThreadMeter


class Samples(ThreadMeter):
    """A meter of a thread whose samples are given."""

    def __init__(self, *samples: Sample) -> None:
        self._samples: Iterator[Sample] = iter(samples)
        super().__init__(0)
        self.restart()

    def sample(self) -> Sample:
        return next(self._samples)


def at(seconds: float, *, ran: float = 0.0, waited: float = 0.0, runnable: bool = True) -> Sample:
    return Sample(at=10.0 + seconds, ran=5.0 + ran, waited=2.0 + waited, runnable=runnable)


def test_a_wait_that_has_not_ended_is_counted() -> None:
    meter = Samples(at(0, runnable=False), at(0.05), at(0.1), at(0.15))
    assert [meter.waited() for _ in range(3)] == pytest.approx([0.05, 0.1, 0.15])


def test_a_wait_that_ended_is_counted_by_the_system_and_only_once() -> None:
    meter = Samples(at(0), at(0.05), at(0.1, ran=0.02, waited=0.08))
    assert [meter.waited() for _ in range(2)] == pytest.approx([0.05, 0.08])


def test_computing_is_no_wait() -> None:
    meter = Samples(at(0), at(0.05, ran=0.05), at(0.1, ran=0.1))
    assert [meter.waited() for _ in range(2)] == pytest.approx([0.0, 0.0])


def test_sleep_and_locks_are_no_wait() -> None:
    meter = Samples(at(0), at(0.05, runnable=False), at(0.1, runnable=False), at(0.15), at(0.2, ran=0.05))
    assert [meter.waited() for _ in range(4)] == pytest.approx([0.0, 0.0, 0.0, 0.0])


def test_a_new_measurement_begins_at_zero() -> None:
    meter = Samples(at(0), at(0.05), at(0.05), at(0.06, ran=0.01))
    assert meter.waited() == pytest.approx(0.05)
    meter.restart()
    assert meter.waited() == pytest.approx(0.0)


def test_a_thread_that_does_not_exist_has_not_waited() -> None:
    meter = ThreadMeter(0)
    meter.restart()
    assert meter.waited() == 0.0
    assert not meter.sample().runnable


def test_a_thread_that_sleeps_and_one_that_computes_are_told_apart() -> None:
    here = ThreadMeter(threading.get_native_id())
    if not here.sample().ran:
        pytest.skip("this system doesn't count the time of threads")
    assert here.sample().runnable
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        meter = ThreadMeter(thread.native_id or 0)
        end = time.monotonic() + 10
        while meter.sample().runnable and time.monotonic() < end:
            time.sleep(0.01)
        meter.restart()
        meter.waited()
        time.sleep(0.1)
        assert meter.waited() < 0.05
    finally:
        ended.set()
        thread.join()

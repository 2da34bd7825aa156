"""The circuit breaker, on a clock of the test's own."""

from __future__ import annotations

import anyio
import pytest

from ragcore import events
from ragcore.resilience import CircuitBreaker, CircuitOpen


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(anyio, "current_time", made)
    return made


def calls(breaker: CircuitBreaker, outcomes: str) -> None:
    """Calls with these outcomes, one after the other: s success, f failure, n neutral."""
    for outcome in outcomes:
        permit = breaker.acquire()
        {"s": permit.success, "f": permit.failure, "n": permit.neutral}[outcome]()


def opened(clock: Clock, **options: float) -> CircuitBreaker:
    breaker = CircuitBreaker(minimum_throughput=4, **options)  # type: ignore[arg-type]
    calls(breaker, "ffff")
    assert breaker.state == "open"
    return breaker


def test_half_of_the_calls_failing_opens_it_though_never_two_in_a_row(clock: Clock) -> None:
    breaker = CircuitBreaker(failure_ratio=0.5, minimum_throughput=10)
    calls(breaker, "sf" * 5)
    assert breaker.state == "open"


def test_below_the_minimum_throughput_it_stays_closed(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=10)
    calls(breaker, "f" * 9)
    assert breaker.state == "closed"


def test_old_calls_roll_out_of_the_window(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4, sampling_duration=30)
    calls(breaker, "fff")
    clock.now += 31
    calls(breaker, "f")
    assert breaker.state == "closed"
    assert breaker.snapshot()["window_calls"] == 1


def test_open_it_refuses_and_says_when_to_come_back(clock: Clock) -> None:
    breaker = opened(clock, break_duration=5)
    with pytest.raises(CircuitOpen) as caught:
        breaker.acquire()
    assert caught.value.retry_after is not None
    assert 4 <= caught.value.retry_after <= 6


def test_no_more_probes_than_allowed(clock: Clock) -> None:
    breaker = opened(clock, probes=2)
    clock.now += 10
    first, second = breaker.acquire(), breaker.acquire()
    assert breaker.snapshot()["state"] == "half_open"
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    first.success()
    second.success()
    assert breaker.state == "closed"


def test_a_cancelled_probe_does_not_wedge_half_open(clock: Clock) -> None:
    breaker = opened(clock, probes=1)
    clock.now += 10
    for _ in range(5):
        breaker.acquire().neutral()
        assert breaker.state == "half_open"
    breaker.acquire().success()
    assert breaker.state == "closed"


def test_a_failed_probe_opens_it_for_longer_up_to_a_cap(clock: Clock) -> None:
    breaker = opened(clock, break_duration=5, max_break_duration=12, probes=1)
    waits = []
    for _ in range(5):
        clock.now += 100
        breaker.acquire().failure()
        waits.append(breaker.snapshot()["retry_after"])
    assert 8 <= waits[0] <= 12
    assert all(12 * 0.8 <= wait <= 12 * 1.2 for wait in waits[1:])


def test_a_result_of_an_earlier_state_is_ignored(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4, probes=1)
    late = breaker.acquire()
    calls(breaker, "ffff")
    clock.now += 10
    probe = breaker.acquire()
    late.failure()
    assert breaker.snapshot()["state"] == "half_open"
    probe.success()
    assert breaker.state == "closed"
    assert breaker.snapshot()["ignored"] == 1


def test_slow_calls_open_it(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4, slow_call_duration=2, slow_call_ratio=0.5)
    for _ in range(4):
        permit = breaker.acquire()
        clock.now += 3
        permit.success()
    assert breaker.state == "open"


def test_by_hand(clock: Clock) -> None:
    breaker = CircuitBreaker()
    breaker.isolate()
    clock.now += 1_000
    with pytest.raises(CircuitOpen, match="by hand"):
        breaker.acquire()
    breaker.reset()
    breaker.acquire().success()
    assert breaker.state == "closed"


def test_every_transition_is_an_event(clock: Clock) -> None:
    heard: list[str] = []
    stop = events.subscribe(lambda event: heard.append(event.data.get("outcome", event.name)))
    breaker = opened(clock, probes=1)
    clock.now += 10
    breaker.acquire().success()
    stop()
    assert heard == [*["failure"] * 4, "breaker.open", "breaker.half_open", "success", "breaker.closed"]


def test_a_late_failure_of_a_stream_counts_in_a_closed_breaker_only(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=2, failure_ratio=0.5)
    permit = breaker.acquire()
    permit.success()
    permit.failure_after_success()
    assert breaker.state == "open"
    permit.failure_after_success()
    assert breaker.snapshot()["ignored"] == 1


@pytest.mark.anyio
async def test_cancellation_is_neither_success_nor_failure() -> None:
    breaker = CircuitBreaker(minimum_throughput=1)
    with anyio.move_on_after(0.01):
        await breaker.call(anyio.sleep_forever)
    assert breaker.state == "closed"
    assert breaker.snapshot()["neutral"] == 1


def test_options_are_checked() -> None:
    for bad in (
        {"failure_ratio": 0},
        {"minimum_throughput": 0},
        {"probes": 0},
        {"break_duration": 9, "max_break_duration": 1},
    ):
        with pytest.raises(ValueError):
            CircuitBreaker(**bad)  # type: ignore[arg-type]

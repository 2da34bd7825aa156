"""The circuit breaker, with the test's own clock."""

from __future__ import annotations

import anyio
import pytest

from ragcore import events
from ragcore.resilience import CircuitBreaker, CircuitOpen
from tests.resilience.conftest import Clock


def state(breaker: CircuitBreaker) -> str:
    """Return the state as a plain str, because mypy would otherwise assume that it never changes."""
    return breaker.state


def calls(breaker: CircuitBreaker, outcomes: str) -> None:
    """Make calls with these outcomes, one after the other: s success, f failure, n neutral."""
    for outcome in outcomes:
        permit = breaker.acquire()
        {"s": permit.success, "f": permit.failure, "n": permit.neutral}[outcome]()


def opened(clock: Clock, **options: float) -> CircuitBreaker:
    breaker = CircuitBreaker(minimum_throughput=4, **options)  # type: ignore[arg-type]
    calls(breaker, "ffff")
    assert state(breaker) == "open"
    return breaker


def test_it_opens_when_half_of_the_calls_fail_even_if_never_two_in_a_row(clock: Clock) -> None:
    breaker = CircuitBreaker(failure_ratio=0.5, minimum_throughput=10)
    calls(breaker, "sf" * 5)
    assert state(breaker) == "open"


def test_below_the_minimum_throughput_it_stays_closed(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=10)
    calls(breaker, "f" * 9)
    assert state(breaker) == "closed"


def test_old_calls_roll_out_of_the_window(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4, sampling_duration=30)
    calls(breaker, "fff")
    clock.now += 31
    calls(breaker, "f")
    assert state(breaker) == "closed"
    assert breaker.snapshot()["window_calls"] == 1


def test_an_open_breaker_refuses_with_retry_after(clock: Clock) -> None:
    breaker = opened(clock, break_duration=5)
    with pytest.raises(CircuitOpen) as caught:
        breaker.acquire()
    assert caught.value.retry_after is not None
    assert 4 <= caught.value.retry_after <= 6


def test_a_half_open_breaker_limits_its_probes(clock: Clock) -> None:
    breaker = opened(clock, probes=2)
    clock.now += 10
    first, second = breaker.acquire(), breaker.acquire()
    assert breaker.snapshot()["state"] == "half_open"
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    first.success()
    second.success()
    assert state(breaker) == "closed"


def test_a_cancelled_probe_gives_its_slot_back_to_the_next_caller(clock: Clock) -> None:
    breaker = opened(clock, probes=1)
    clock.now += 10
    for _ in range(5):
        breaker.acquire().neutral()
        assert state(breaker) == "half_open"
    breaker.acquire().success()
    assert state(breaker) == "closed"


def test_each_failed_probe_doubles_the_break_up_to_a_maximum(clock: Clock) -> None:
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
    assert state(breaker) == "closed"
    assert breaker.snapshot()["ignored"] == 1


def test_slow_calls_open_it(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4, slow_call_duration=2, slow_call_ratio=0.5)
    for _ in range(4):
        permit = breaker.acquire()
        clock.now += 3
        permit.success()
    assert state(breaker) == "open"


def test_a_breaker_opened_by_hand_stays_open_until_reset(clock: Clock) -> None:
    breaker = CircuitBreaker()
    breaker.isolate()
    clock.now += 1_000
    with pytest.raises(CircuitOpen, match="by hand"):
        breaker.acquire()
    breaker.reset()
    breaker.acquire().success()
    assert state(breaker) == "closed"


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
    assert state(breaker) == "open"
    permit.failure_after_success()
    assert breaker.snapshot()["ignored"] == 1


@pytest.mark.anyio
async def test_cancellation_is_neither_success_nor_failure() -> None:
    breaker = CircuitBreaker(minimum_throughput=1)
    with anyio.move_on_after(10):
        await breaker.call(anyio.sleep_forever)
    assert state(breaker) == "closed"
    assert breaker.snapshot()["neutral"] == 1


def test_options_are_checked() -> None:
    for bad in (
        {"failure_ratio": 0},
        {"failure_ratio": 1.1},
        {"slow_call_ratio": 0},
        {"slow_call_ratio": 1.1},
        {"minimum_throughput": 0},
        {"sampling_duration": 0},
        {"break_duration": 0},
        {"max_break_duration": float("inf")},
        {"probes": 0},
        {"break_duration": 9, "max_break_duration": 1},
    ):
        with pytest.raises(ValueError):
            CircuitBreaker(**bad)
    CircuitBreaker(
        failure_ratio=1, slow_call_ratio=1, minimum_throughput=1, probes=1, break_duration=1, max_break_duration=1
    )


def test_the_ratio_applies_from_the_minimum_throughput(clock: Clock) -> None:
    breaker = CircuitBreaker(failure_ratio=0.6, minimum_throughput=5)
    calls(breaker, "sffsf")
    assert state(breaker) == "open"
    below = CircuitBreaker(failure_ratio=0.6, minimum_throughput=5)
    calls(below, "sffss")
    assert state(below) == "closed"


def test_a_success_never_opens_it(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4)
    calls(breaker, "fffs")
    assert state(breaker) == "closed"
    calls(breaker, "f")
    assert state(breaker) == "open"


def test_a_slow_probe_has_failed(clock: Clock) -> None:
    breaker = opened(clock, slow_call_duration=2, probes=1)
    clock.now += 10
    probe = breaker.acquire()
    clock.now += 2
    probe.success()
    assert state(breaker) == "open"
    assert breaker.snapshot()["slow"] == 1


def test_below_the_slow_call_ratio_it_stays_closed(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4, slow_call_duration=2, slow_call_ratio=0.8)
    for seconds in (3, 3, 3, 1.9, 3):
        permit = breaker.acquire()
        clock.now += seconds
        permit.success()
    assert state(breaker) == "open"
    snapshot = breaker.snapshot()
    assert (snapshot["slow"], snapshot["success"], snapshot["window_slow"]) == (4, 5, 0)


def test_enough_probes_must_succeed_and_one_failure_is_enough(clock: Clock) -> None:
    breaker = opened(clock, probes=3)
    clock.now += 10
    calls(breaker, "ss")
    assert state(breaker) == "half_open"
    calls(breaker, "f")
    assert state(breaker) == "open"
    clock.now += 20
    calls(breaker, "sss")
    assert state(breaker) == "closed"


def test_a_break_takes_about_five_seconds_and_is_short_again_after_closing(clock: Clock) -> None:
    breaker = opened(clock, probes=1)
    assert 4 <= breaker.snapshot()["retry_after"] <= 6
    for least, most in ((8, 12), (16, 24)):
        clock.now += 100
        calls(breaker, "f")
        assert least <= breaker.snapshot()["retry_after"] <= most
    clock.now += 100
    calls(breaker, "s")
    assert state(breaker) == "closed"
    assert breaker.snapshot()["retry_after"] is None
    calls(breaker, "ffff")
    assert 4 <= breaker.snapshot()["retry_after"] <= 6


def test_breaks_have_jitter(clock: Clock) -> None:
    assert len({opened(clock).snapshot()["retry_after"] for _ in range(20)}) > 10


def test_reset_makes_breaks_short_again(clock: Clock) -> None:
    breaker = opened(clock, probes=1)
    clock.now += 100
    calls(breaker, "f")
    breaker.reset()
    calls(breaker, "ffff")
    assert 4 <= breaker.snapshot()["retry_after"] <= 6


def test_check_takes_no_slot(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4, probes=1)
    breaker.check()
    calls(breaker, "ffff")
    with pytest.raises(CircuitOpen):
        breaker.check()
    clock.now += 10
    for _ in range(3):
        breaker.check()
    assert state(breaker) == "open"
    assert breaker.snapshot()["retry_after"] == 0
    breaker.acquire()
    with pytest.raises(CircuitOpen, match="half-open and all its probes are under way") as caught:
        breaker.check()
    assert caught.value.retry_after == 5
    assert breaker.snapshot()["rejected"] == 2


def test_a_refusal_names_the_dependency_and_is_an_event(clock: Clock) -> None:
    heard: list[events.Event] = []
    breaker = CircuitBreaker(name="llm", minimum_throughput=1)
    calls(breaker, "f")
    stop = events.subscribe(heard.append)
    with pytest.raises(
        CircuitOpen, match=r"breaker of llm is open after failures; the next probe is in \d\.\d s"
    ) as caught:
        breaker.acquire()
    breaker.isolate()
    with pytest.raises(CircuitOpen, match=r"breaker of llm was opened by hand; call reset\(\) to close it") as by_hand:
        breaker.acquire()
    stop()
    assert caught.value.dependency == "llm"
    assert by_hand.value.retry_after is None
    assert [(event.name, event.source, dict(event.data)) for event in heard] == [
        ("breaker.rejected", "llm", {"state": "open"}),
        ("breaker.isolated", "llm", {"before": "open", "calls": 0, "failures": 0}),
        ("breaker.rejected", "llm", {"state": "isolated"}),
    ]
    with pytest.raises(CircuitOpen, match="breaker of this dependency"):
        opened(clock).acquire()


def test_opening_is_an_event_with_calls_and_failures(clock: Clock) -> None:
    heard: list[events.Event] = []
    stop = events.subscribe(heard.append)
    breaker = CircuitBreaker(name="llm", minimum_throughput=4)
    permit = breaker.acquire()
    clock.now += 2
    permit.success()
    calls(breaker, "fff")
    breaker.reset()
    breaker.reset()
    stop()
    assert [(event.name, dict(event.data)) for event in heard if event.name != "breaker.outcome"] == [
        ("breaker.open", {"before": "closed", "calls": 4, "failures": 3}),
        ("breaker.closed", {"before": "open", "calls": 0, "failures": 0}),
    ]
    assert heard[0].data == {"outcome": "success", "seconds": 2.0, "state": "closed"}


def test_the_clock_of_another_event_loop_does_not_keep_it_open_forever(clock: Clock) -> None:
    clock.now = 500_000.0
    breaker = opened(clock)
    clock.now = 3.0
    with pytest.raises(CircuitOpen):
        breaker.check()
    clock.now += 73
    breaker.check()


def test_the_typical_duration_is_the_p95_of_the_last_successes(clock: Clock) -> None:
    breaker = CircuitBreaker()
    assert breaker.typical_duration() == 0
    for seconds in range(1, 101):
        permit = breaker.acquire()
        clock.now += seconds
        permit.success()
        failed = breaker.acquire()
        clock.now += 1_000
        failed.neutral()
    assert breaker.typical_duration() == 97  # the 61st of the values 37 to 100


def test_each_outcome_is_counted_once(clock: Clock) -> None:
    breaker = CircuitBreaker()
    permit = breaker.acquire()
    permit.success()
    permit.failure()
    permit.neutral()
    permit.report("success")
    breaker.acquire().neutral()
    counted = {name: breaker.snapshot()[name] for name in ("success", "failure", "neutral", "ignored", "window_calls")}
    assert counted == {"success": 1, "failure": 0, "neutral": 1, "ignored": 0, "window_calls": 1}
    never = breaker.acquire()
    never.failure_after_success()
    assert breaker.snapshot()["failure"] == 0


def test_a_late_failure_alone_opens_only_at_the_minimum_throughput(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=3, failure_ratio=0.5)
    permit = breaker.acquire()
    permit.success()
    permit.failure_after_success()
    assert state(breaker) == "closed"
    assert breaker.snapshot()["failure"] == 1
    permit.failure_after_success()
    assert state(breaker) == "open"


def test_a_late_failure_does_not_decide_a_probe(clock: Clock) -> None:
    breaker = opened(clock, probes=2)
    clock.now += 10
    probe = breaker.acquire()
    probe.success()
    probe.failure_after_success()
    assert state(breaker) == "half_open"
    assert breaker.snapshot()["ignored"] == 1


def test_a_waiting_caller_is_woken_when_the_breaker_opens(clock: Clock) -> None:
    woken: list[str] = []
    breaker = CircuitBreaker(minimum_throughput=1)
    with breaker.wakes(lambda: woken.append("opened")):
        calls(breaker, "s")
        assert woken == []
        calls(breaker, "f")
        breaker.reset()
    assert woken == ["opened"]
    with breaker.wakes(lambda: woken.append("isolated")):
        breaker.isolate()
    breaker.reset()
    calls(breaker, "f")
    assert woken == ["opened", "isolated"]


@pytest.mark.anyio
async def test_call_counts_every_exception_and_returns_the_result() -> None:
    breaker = CircuitBreaker(minimum_throughput=3, probes=1)

    async def fail() -> None:
        await anyio.sleep(1)
        raise KeyError("x")

    async def answer() -> int:
        await anyio.sleep(2)
        return 7

    assert await breaker.call(answer) == 7
    assert breaker.typical_duration() == pytest.approx(2)
    for _ in range(2):
        with pytest.raises(KeyError):
            await breaker.call(fail)
    with pytest.raises(CircuitOpen):
        await breaker.call(answer)
    await anyio.sleep(10)
    assert await breaker.call(answer) == 7
    assert state(breaker) == "closed"


def test_the_snapshot_has_the_name_state_and_counters(clock: Clock) -> None:
    breaker = CircuitBreaker(name="llm")
    calls(breaker, "ssfn")
    early = [breaker.acquire() for _ in range(3)]
    snapshot = breaker.snapshot()
    assert (snapshot["name"], snapshot["window_calls"], snapshot["window_failures"]) == ("llm", 3, 1)
    breaker.reset()
    for permit in early[:2]:
        permit.failure()
    assert breaker.snapshot()["ignored"] == 2
    done = breaker.acquire()
    done.success()
    breaker.reset()
    done.failure_after_success()
    assert breaker.snapshot()["ignored"] == 3


def test_outcomes_are_events_of_their_breaker(clock: Clock) -> None:
    heard: list[tuple[str, str]] = []
    stop = events.subscribe(lambda event: heard.append((event.name, event.source)))
    calls(CircuitBreaker(name="llm"), "s")
    stop()
    assert heard == [("breaker.outcome", "llm")]


def test_a_late_failure_is_not_slow(clock: Clock) -> None:
    breaker = CircuitBreaker(slow_call_duration=1)
    permit = breaker.acquire()
    permit.success()
    permit.failure_after_success()
    assert breaker.snapshot()["window_slow"] == 0


def test_a_break_is_over_at_its_very_end(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += breaker.snapshot()["retry_after"]
    breaker.check()


def test_a_break_of_maximum_length_lasts_until_its_end(clock: Clock) -> None:
    breaker = opened(clock, break_duration=60, max_break_duration=60)
    breaker._open_until = clock.now + 72
    clock.now += 71
    with pytest.raises(CircuitOpen):
        breaker.check()
    clock.now += 1
    breaker.check()


@pytest.mark.parametrize(("slow", "expected"), [(4, "open"), (3, "closed")])
def test_the_slow_call_ratio_is_of_all_calls(clock: Clock, slow: int, expected: str) -> None:
    breaker = CircuitBreaker(minimum_throughput=5, slow_call_duration=1, slow_call_ratio=0.8)
    for number in range(5):
        permit = breaker.acquire()
        clock.now += 1 if number >= 5 - slow else 0
        permit.success()
    assert state(breaker) == expected


def test_a_short_window_and_a_short_break_are_allowed() -> None:
    breaker = CircuitBreaker(sampling_duration=0.5, break_duration=0.1)
    assert (breaker.sampling_duration, breaker.break_duration) == (0.5, 0.1)

"""Flows, and a breaker that tells one flow's failures from an outage."""

from __future__ import annotations

import contextvars

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import events
from ragcore.resilience import Bulkhead, CircuitBreaker, CircuitOpen, Policy, flow
from ragcore.resilience.flow import MOST_FLOWS
from tests.resilience.conftest import Clock, Flaky


def state(breaker: CircuitBreaker) -> str:
    return breaker.state


def call(breaker: CircuitBreaker, name: str, outcome: str, clock: Clock, seconds: float = 0.01) -> None:
    """Make one call of a flow; return "refused" if it was refused."""
    with flow(name):
        permit = breaker.acquire()
    clock.now += seconds
    {"s": permit.success, "f": permit.failure, "n": permit.neutral}[outcome]()


def refused(breaker: CircuitBreaker, name: str) -> bool:
    with flow(name):
        try:
            breaker.check()
        except CircuitOpen:
            return True
    return False


def set_bad_apart(breaker: CircuitBreaker, clock: Clock) -> None:
    """Let one flow fail while another one succeeds."""
    for _ in range(4):
        call(breaker, "good", "s", clock)
        if not refused(breaker, "bad"):
            call(breaker, "bad", "f", clock)


def test_a_flow_applies_to_its_block() -> None:
    assert flow.current() == ""
    with flow("a"):
        with flow("b"):
            assert flow.current() == "b"
        assert flow.current() == "a"
        assert contextvars.copy_context().run(flow.current) == "a"
    assert flow.current() == ""


def test_if_one_of_several_flows_fails_the_breaker_opens_only_for_that_flow(clock: Clock) -> None:
    heard: list[events.Event] = []
    stop = events.subscribe(heard.append)
    breaker = CircuitBreaker(minimum_throughput=10, name="llm")
    for _ in range(5):
        call(breaker, "good", "s", clock)
        call(breaker, "bad", "f", clock)
    stop()
    assert state(breaker) == "closed"
    assert (refused(breaker, "bad"), refused(breaker, "good"), refused(breaker, "new")) == (True, False, False)
    assert breaker.snapshot()["flows_apart"] == 1
    assert breaker.snapshot()["window_failures"] == 0
    opening = [event for event in heard if event.name == "breaker.open"]
    assert [(event.source, event.data["flow"]) for event in opening] == [("llm", "bad")]
    with flow("bad"), pytest.raises(CircuitOpen, match="llm for this flow is open after failures"):
        breaker.acquire()


def test_a_failing_flow_is_found_among_many_healthy_ones(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=10)
    for round in range(10):
        for number in range(20):
            call(breaker, f"good {number}", "s", clock, 0.001)
        assert not refused(breaker, "bad"), round
        call(breaker, "bad", "f", clock)
    assert refused(breaker, "bad")
    assert state(breaker) == "closed"


def test_several_failing_flows_are_set_apart_while_many_others_succeed(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=10)
    for _ in range(40):
        for number in range(8):
            call(breaker, f"good {number}", "s", clock)
        for name in ("bad 1", "bad 2"):
            if not refused(breaker, name):
                call(breaker, name, "f", clock)
    assert (refused(breaker, "bad 1"), refused(breaker, "bad 2"), state(breaker)) == (True, True, "closed")


@given(
    before=st.lists(st.integers(0, 12), max_size=30),
    during=st.lists(st.integers(0, 12), min_size=60, max_size=60),
)
def test_an_outage_opens_the_breaker_after_the_same_number_of_calls_with_one_flow_and_with_many(
    before: list[int], during: list[int]
) -> None:
    counted = []
    for many in (False, True):
        clock = Clock()
        breaker = CircuitBreaker(minimum_throughput=10)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(anyio, "current_time", clock)
            for number in before:
                call(breaker, str(number) if many else "", "s", clock)
            calls = 0
            for number in during:
                if state(breaker) != "closed":
                    break
                name = str(number) if many else ""
                if not refused(breaker, name):  # the only flow that has failed so far is set apart
                    calls += 1
                    call(breaker, name, "f", clock)
        counted.append(calls)
        assert state(breaker) == "open" or len(set(during)) == 1
    assert counted[1] <= counted[0] or len(set(during[: counted[0]])) == 1, "or by the first call of a second flow"
    assert counted[1] <= counted[0] + 1


def test_half_of_the_calls_of_all_flows_failing_is_an_outage(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=10)
    for number in range(40):
        if state(breaker) != "closed":
            break
        call(breaker, f"flow {number % 7}", "sf"[number % 2], clock)
    assert state(breaker) == "open"


def test_the_next_call_of_another_flow_decides_about_a_suspect(clock: Clock) -> None:
    for outcome, after in (("f", ("open", True)), ("s", ("closed", False))):
        breaker = CircuitBreaker(minimum_throughput=10)
        with flow("other"):
            permits = [breaker.acquire() for _ in range(4)]
        for _ in range(6):
            call(breaker, "quick", "f", clock)
        for permit in permits:  # they began before the failures, so they don't show that the dependency works now
            permit.success()
        call(breaker, "quick", "f", clock)
        assert state(breaker) == "closed"
        assert (refused(breaker, "quick"), refused(breaker, "other")) == (True, False)
        assert breaker.snapshot()["window_failures"] == 7, (
            "the failures stay in the window until it is known which flow they belong to"
        )
        call(breaker, "other", outcome, clock)
        assert (state(breaker), refused(breaker, "other")) == after
        assert refused(breaker, "quick")
        assert breaker.snapshot()["window_failures"] == 0


def test_calls_of_a_suspect_that_were_under_way_do_not_open_it_for_others(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=10)
    call(breaker, "other", "s", clock)
    with flow("bad"):
        permits = [breaker.acquire() for _ in range(30)]
    clock.now += 0.1
    for permit in permits:
        permit.failure()
    assert state(breaker) == "closed"
    assert (refused(breaker, "bad"), refused(breaker, "other")) == (True, False)
    call(breaker, "other", "s", clock)
    assert breaker.snapshot()["window_failures"] == 0


def test_a_flow_set_apart_has_its_own_probe_and_comes_back(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4, break_duration=5, probes=2)
    set_bad_apart(breaker, clock)
    assert refused(breaker, "bad")
    clock.now += 7
    call(breaker, "bad", "f", clock)  # its probe
    assert refused(breaker, "bad")
    assert state(breaker) == "closed"
    clock.now += 13
    call(breaker, "bad", "s", clock)
    call(breaker, "bad", "s", clock)
    call(breaker, "bad", "s", clock)
    assert breaker.snapshot()["flows_apart"] == 0
    assert breaker._apart == {}


def test_a_flow_whose_probe_fails_does_not_keep_it_open_for_others(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4, break_duration=5, probes=2)
    for _ in range(4):
        call(breaker, "bad", "f", clock)  # no other flow calls: it may be an outage
    assert state(breaker) == "open"
    assert refused(breaker, "good")
    clock.now += 7
    call(breaker, "bad", "f", clock)
    assert state(breaker) == "half_open"
    assert refused(breaker, "bad")
    call(breaker, "good", "s", clock)
    call(breaker, "good", "s", clock)
    assert state(breaker) == "closed"
    assert (refused(breaker, "bad"), refused(breaker, "good")) == (True, False)


def test_in_an_outage_the_second_flows_probe_opens_it_again(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4, break_duration=5)
    for _ in range(4):
        call(breaker, "a", "f", clock)
    assert refused(breaker, "b")
    clock.now += 7
    call(breaker, "a", "f", clock)
    call(breaker, "b", "f", clock)
    assert state(breaker) == "open"


def test_a_flow_set_apart_uses_no_probe_of_the_others(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4, break_duration=5, probes=1)
    set_bad_apart(breaker, clock)
    for name in ("a", "b", "c", "d", "e", "f", "g", "h"):
        if state(breaker) == "closed":
            call(breaker, name, "f", clock)
    assert state(breaker) == "open"
    breaker._open_until = clock.now
    assert refused(breaker, "bad")
    call(breaker, "a", "s", clock)
    assert state(breaker) == "closed"


def test_slow_calls_of_one_flow_open_the_breaker_only_for_that_flow(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=10, slow_call_ratio=0.5, slow_call_duration=1.0)
    for _ in range(10):
        call(breaker, "good", "s", clock, 0.1)
        if not refused(breaker, "slow"):
            call(breaker, "slow", "s", clock, 2.0)
    assert (refused(breaker, "slow"), refused(breaker, "good"), state(breaker)) == (True, False, "closed")


def test_it_remembers_at_most_ten_thousand_flows(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=10**6)
    for number in range(MOST_FLOWS + 10):
        call(breaker, f"a {number}", "s", clock, 0.0)
        call(breaker, f"b {number}", "f", clock, 0.0)
    assert len(breaker._blame._served) == len(breaker._blame.failing) == MOST_FLOWS


def test_reset_closes_the_breaker_for_all_flows(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=10)
    for _ in range(5):
        call(breaker, "good", "s", clock)
        call(breaker, "bad", "f", clock)
    assert refused(breaker, "bad")
    breaker.reset()
    assert not refused(breaker, "bad")


@pytest.mark.anyio
async def test_queued_callers_of_a_flow_are_refused_when_the_breaker_opens_for_it() -> None:
    policy = Policy(bulkhead=Bulkhead(1, queue=100), breaker=CircuitBreaker(minimum_throughput=4), retry=False)
    told: dict[str, float] = {}

    async def ask(name: str, work: Flaky) -> None:
        with flow(name):
            try:
                await policy.call(work)
            except (OSError, CircuitOpen) as error:
                told[f"{name} {type(error).__name__}"] = anyio.current_time()

    async with anyio.create_task_group() as group:
        for name, work in (
            ("good", Flaky(seconds=1)),
            ("bad", Flaky(OSError(), seconds=1)),
            ("good", Flaky(seconds=1)),
            ("bad", Flaky(OSError(), seconds=1)),
            ("good", Flaky(seconds=8)),
            ("bad", Flaky()),
        ):
            group.start_soon(ask, name, work)
            await anyio.sleep(0.01)
        began = anyio.current_time()
    assert set(told) == {"bad OSError", "bad CircuitOpen"}
    assert told["bad CircuitOpen"] - began < 6, "it was refused before the long call ahead of it ended"


@pytest.mark.anyio
async def test_queued_callers_of_a_flow_are_refused_when_its_own_breaker_opens_again() -> None:
    breaker = CircuitBreaker(minimum_throughput=2, break_duration=1, probes=1)
    policy = Policy(bulkhead=Bulkhead(1, queue=100), breaker=breaker, retry=False)

    async def ask(work: Flaky) -> str:
        with flow("bad"):
            try:
                return await policy.call(work)
            except (OSError, CircuitOpen) as error:
                return type(error).__name__

    with flow("good"):
        await policy.call(Flaky())
    assert await ask(Flaky(OSError())) == "OSError"
    with flow("good"):
        await policy.call(Flaky())
    assert breaker.snapshot()["flows_apart"] == 1
    await anyio.sleep(2)
    told: list[tuple[str, float]] = []

    async def probe(work: Flaky) -> None:
        told.append((await ask(work), anyio.current_time()))

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(probe, Flaky(OSError(), seconds=1))
        await anyio.wait_all_tasks_blocked()
        with flow("good"):
            group.start_soon(policy.call, Flaky(seconds=8))
        await anyio.wait_all_tasks_blocked()
        with (
            pytest.MonkeyPatch.context() as patch
        ):  # let it queue, like a call that came while the half-open breaker had a free slot
            patch.setattr(CircuitBreaker, "check", lambda self, flow=None: None)
            group.start_soon(probe, Flaky())
            await anyio.wait_all_tasks_blocked()
    assert [name for name, _ in told] == ["OSError", "CircuitOpen"]
    assert [at - began for _, at in told] == pytest.approx([1.0, 1.0], abs=0.5)


def test_a_known_culprit_does_not_keep_it_open_for_others_after_an_outage(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=4, break_duration=5, probes=2)
    for name in ("bad", "good", "bad", "good"):
        call(breaker, name, "f", clock)
    assert state(breaker) == "open"
    assert refused(breaker, "good")
    for _ in range(5):  # the outage is over for all flows but one
        clock.now += 7
        with flow("bad"):
            probes = []
            for _ in range(2):
                try:
                    probes.append(breaker.acquire())
                except CircuitOpen:
                    break
        for probe in probes:
            probe.failure()
        if not refused(breaker, "good"):
            call(breaker, "good", "s", clock)
    assert state(breaker) == "closed"
    assert (refused(breaker, "bad"), refused(breaker, "good")) == (True, False)


def test_a_slow_outage_opens_the_breaker_even_if_the_suspect_no_longer_calls(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=5)
    call(breaker, "b", "s", clock)
    for _ in range(4):
        clock.now += 3
        call(breaker, "a", "f", clock)
    assert (state(breaker), refused(breaker, "a")) == ("closed", True)
    clock.now += 20
    call(breaker, "b", "f", clock)
    assert state(breaker) == "open"


def test_an_isolated_breaker_also_refuses_a_flow_that_is_set_apart(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=10)
    for _ in range(5):
        call(breaker, "good", "s", clock)
        call(breaker, "bad", "f", clock)
    breaker.isolate()
    with flow("bad"), pytest.raises(CircuitOpen, match="was opened by hand"):
        breaker.acquire()


def test_a_request_that_served_several_flows_is_a_success_of_each(clock: Clock) -> None:
    breaker = CircuitBreaker(minimum_throughput=10)
    for _ in range(20):
        for name in ("bad 1", "bad 2"):
            if not refused(breaker, name):
                call(breaker, name, "f", clock)
        began = clock.now
        call(breaker, "", "s", clock)
        call(breaker, "", "s", clock)
        breaker.served([f"good {number}" for number in range(8)], began)
    assert state(breaker) == "closed"
    assert (refused(breaker, "bad 1"), refused(breaker, "bad 2")) == (True, True)


def test_a_call_for_several_flows_is_counted_in_the_window_of_none_of_them(clock: Clock) -> None:
    """The call is counted once, without a flow. If it were in a flow's window, the subtraction of that window would make the total negative."""
    breaker = CircuitBreaker(minimum_throughput=4)
    call(breaker, "bad", "f", clock)
    others = 0
    for _ in range(5):
        began = clock.now
        call(breaker, "", "s", clock)
        breaker.served(["bad", "good"], began)
        others += 1
    for _ in range(8):
        if not refused(breaker, "bad"):
            call(breaker, "bad", "f", clock)
        call(breaker, "good", "s", clock)
        others += 1
    snapshot = breaker.snapshot()
    assert (snapshot.flows_apart, snapshot.window_failures, snapshot.window_calls) == (1, 0, others)

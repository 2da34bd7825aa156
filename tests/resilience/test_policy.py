"""Calls through a policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from ragcore import events
from ragcore.resilience import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    Deadline,
    DeadlineExceeded,
    Failure,
    Overloaded,
    Policy,
    RetryBudget,
    RetryPolicy,
    deadline,
    from_status,
)
from ragcore.resilience.attempt import AttemptTimeout
from ragcore.resilience.deadline import reserve
from ragcore.testing import at_rest
from tests.resilience.conftest import Flaky

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(attempts=3, backoff=0.0, max_backoff=0.0)


async def test_a_retryable_error_is_retried_and_the_last_error_is_raised_unchanged() -> None:
    policy = Policy("crm", on=OSError, retry=QUICK)
    flaky = Flaky(OSError("1"), OSError("2"))
    assert await policy.call(flaky) == "ok"
    assert flaky.calls == 3
    hopeless = Flaky(*(OSError(str(n)) for n in range(9)))
    with pytest.raises(OSError, match="2"):
        await policy.call(hopeless)
    assert hopeless.calls == 3
    assert (policy.snapshot()["calls"], policy.snapshot()["retries"]) == (2, 4)


async def test_an_error_that_is_not_retryable_is_raised_at_once_and_does_not_count() -> None:
    breaker = CircuitBreaker(minimum_throughput=1)
    policy = Policy(on=OSError, retry=QUICK, breaker=breaker)
    flaky = Flaky(ValueError("bad"))
    with pytest.raises(ValueError, match="bad"):
        await policy.call(flaky)
    assert (flaky.calls, breaker.state, breaker.snapshot()["neutral"]) == (1, "closed", 1)


async def test_without_on_the_components_rule_applies_or_oserror() -> None:
    policy = Policy(retry=QUICK)
    assert await policy.call(Flaky(OSError())) == "ok"
    assert await policy.call(Flaky(KeyError()), on=KeyError) == "ok"
    assert await policy.call(Flaky(KeyError(), OSError()), on=(KeyError, OSError)) == "ok"
    with pytest.raises(KeyError):
        await policy.call(Flaky(KeyError()))
    strict = Policy(on=KeyError, retry=QUICK)
    with pytest.raises(OSError):
        await strict.call(Flaky(OSError()), on=OSError)


async def test_a_policy_without_retries_makes_one_attempt() -> None:
    flaky = Flaky(OSError("1"))
    with pytest.raises(OSError, match="1"):
        await Policy(retry=False).call(flaky)
    assert flaky.calls == 1


async def test_a_failing_dependency_opens_the_breaker_and_gets_no_more_calls() -> None:
    policy = Policy("crm", on=OSError, retry=False, breaker=CircuitBreaker(minimum_throughput=5))
    flaky = Flaky(*(OSError() for _ in range(100)))
    for _ in range(5):
        with pytest.raises(OSError):
            await policy.call(flaky)
    with pytest.raises(CircuitOpen, match="breaker of crm is open"):
        await policy.call(flaky)
    assert flaky.calls == 5
    report = policy.snapshot().to_dict()
    assert report["breaker"]["state"] == "open"
    assert report["breaker"]["failure"] == 5
    assert report["bulkhead"]["inside"] == 0


async def test_an_open_breaker_stops_the_retries_of_a_call_under_way() -> None:
    policy = Policy(on=OSError, retry=QUICK, breaker=CircuitBreaker(minimum_throughput=2))
    flaky = Flaky(*(OSError() for _ in range(100)))
    with pytest.raises(CircuitOpen):
        await policy.call(flaky)
    assert flaky.calls == 2


async def test_an_attempts_own_timeout_counts_and_is_retried() -> None:
    policy = Policy("crm", attempt_timeout=2, retry=RetryPolicy(attempts=2, backoff=0, max_backoff=0))
    slow = Flaky(seconds=100)
    began = anyio.current_time()
    with pytest.raises(TimeoutError, match=r"crm did not answer within 2\.0 s") as caught:
        await policy.call(slow)
    assert anyio.current_time() == pytest.approx(began + 4)
    assert isinstance(caught.value, AttemptTimeout)
    assert not isinstance(caught.value, DeadlineExceeded)
    assert not caught.value.shortened
    assert slow.calls == 2
    assert policy.snapshot()["breaker"]["failure"] == 2


async def test_without_an_inherited_deadline_the_policys_timeout_ends_the_whole_call() -> None:
    for attempt_timeout in (3, 100):
        policy = Policy(timeout=5, attempt_timeout=attempt_timeout, retry=QUICK)
        began = anyio.current_time()
        with pytest.raises(DeadlineExceeded, match="the dependency: the deadline passed") as caught:
            await policy.call(Flaky(seconds=100))
        assert anyio.current_time() == pytest.approx(began + 5)
        assert caught.value.budget == pytest.approx(5)
        assert caught.value.elapsed == pytest.approx(5)


async def test_an_inherited_deadline_replaces_the_timeout_whether_longer_or_shorter() -> None:
    policy = Policy(timeout=5, attempt_timeout=100)
    began = anyio.current_time()
    with deadline(50):
        assert await policy.call(Flaky(seconds=20)) == "ok"
    with anyio.move_on_after(50):
        assert await policy.call(Flaky(seconds=20)) == "ok"
    assert anyio.current_time() == pytest.approx(began + 40)
    with pytest.raises(DeadlineExceeded), deadline(2):
        await policy.call(Flaky(seconds=20))
    with anyio.move_on_after(2) as scope:
        await policy.call(Flaky(seconds=20))
    assert scope.cancelled_caught
    assert anyio.current_time() == pytest.approx(began + 44)


async def test_a_short_deadline_of_the_caller_is_neutral_and_leaves_nothing_behind() -> None:
    policy = Policy(attempt_timeout=50)
    with pytest.raises(DeadlineExceeded), deadline(0.9):
        await policy.call(anyio.sleep_forever)
    assert policy.snapshot()["breaker"]["failure"] == 0
    assert policy.snapshot()["breaker"]["neutral"] == 1
    at_rest(policy)()


async def test_a_deadline_longer_than_most_successes_counts_as_a_failure() -> None:
    policy = Policy(retry=False)
    with (
        pytest.raises(DeadlineExceeded),
        deadline(1.1),
    ):  # no success is known: more than a second without an answer counts
        await policy.call(anyio.sleep_forever)
    assert policy.snapshot()["breaker"]["failure"] == 1
    for _ in range(20):
        await policy.call(Flaky(seconds=5))
    with pytest.raises(DeadlineExceeded), deadline(4):
        await policy.call(anyio.sleep_forever)
    assert policy.snapshot()["breaker"]["failure"] == 1
    with pytest.raises(DeadlineExceeded), deadline(6):
        await policy.call(anyio.sleep_forever)
    assert policy.snapshot()["breaker"]["failure"] == 2


async def fails_as_it_should(policy: Policy, flaky: Flaky) -> None:
    with pytest.raises(KeyError):
        await policy.call(flaky)


async def test_the_time_in_the_queue_does_not_count_against_the_dependency() -> None:
    policy = Policy(bulkhead=Bulkhead(1), retry=False)
    async with anyio.create_task_group() as group:
        group.start_soon(fails_as_it_should, policy, Flaky(KeyError(), seconds=5))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(DeadlineExceeded), deadline(5.5):
            await policy.call(anyio.sleep_forever)
    assert policy.snapshot()["breaker"]["failure"] == 0


async def test_a_wait_for_a_place_ends_just_before_the_deadline_with_a_reason() -> None:
    bulkhead = Bulkhead(1)
    policy, patient = Policy("crm", bulkhead=bulkhead, timeout=3), Policy(bulkhead=bulkhead)
    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(patient.call, Flaky(seconds=8))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match=r"no place within 3\.0 s; 1 caller was waiting"):
            await policy.call(Flaky())
        assert anyio.current_time() == pytest.approx(began + 3, abs=0.02)
        with pytest.raises(Overloaded), deadline(2):
            await policy.call(Flaky())
        assert anyio.current_time() == pytest.approx(began + 5, abs=0.03)
        assert bulkhead.waiting == 0
    at_rest(policy)()


async def test_a_full_bulkhead_refuses_and_is_not_retried() -> None:
    policy = Policy("crm", bulkhead=Bulkhead(1, queue=0), on=lambda error: Failure(), retry=QUICK)
    async with anyio.create_task_group() as group:
        group.start_soon(policy.call, Flaky(seconds=1))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match="crm is overloaded"):
            await policy.call(Flaky())
    assert policy.snapshot()["retries"] == 0


async def test_a_retry_waits_no_longer_than_its_backoff_and_is_an_event() -> None:
    heard: list[events.Event] = []
    policy = Policy("crm", retry=RetryPolicy(attempts=2, backoff=4, max_backoff=4))
    stop = events.subscribe(lambda event: heard.append(event) if event.name.startswith("retry") else None)
    began = anyio.current_time()
    assert await policy.call(Flaky(OSError("once"))) == "ok"
    stop()
    assert len(heard) == 1
    assert (heard[0].name, heard[0].source) == ("retry.attempt", "crm")
    assert (heard[0].data["attempt"], heard[0].data["error"]) == (2, "OSError")
    assert anyio.current_time() - began == pytest.approx(heard[0].data["wait"])
    assert heard[0].data["wait"] <= 4


async def test_every_attempt_is_an_event() -> None:
    heard: list[tuple[str, str, float]] = []
    policy = Policy("crm", retry=QUICK)
    stop = events.subscribe(
        lambda event: (
            heard.append((event.source, event.data["outcome"], event.data["seconds"]))
            if event.name == "policy.attempt"
            else None
        )
    )
    await policy.call(Flaky(OSError(), seconds=2))
    with pytest.raises(KeyError):
        await policy.call(Flaky(KeyError()))
    stop()
    assert [entry[:2] for entry in heard] == [("crm", "failure"), ("crm", "success"), ("crm", "neutral")]
    assert [entry[2] for entry in heard] == pytest.approx([2, 2, 0])


async def test_with_an_empty_budget_the_first_error_is_raised() -> None:
    heard: list[str] = []
    budget = RetryBudget(ratio=0.0, reserve=2)
    policy = Policy(on=OSError, retry=RetryPolicy(attempts=9, backoff=0, max_backoff=0, budget=budget), breaker=False)
    flaky = Flaky(*(OSError(str(n)) for n in range(20)))
    stop = events.subscribe(lambda event: heard.append(event.name))
    with pytest.raises(OSError, match="2"):
        await policy.call(flaky)
    assert flaky.calls == 3
    with pytest.raises(OSError, match="3"):
        await policy.call(flaky)
    stop()
    assert flaky.calls == 4
    assert budget.snapshot()["refused"] == 2
    assert heard.count("retry.budget_empty") == 2


async def test_only_first_attempts_add_to_the_budget() -> None:
    budget = RetryBudget(ratio=0.5, reserve=10)
    policy = Policy(retry=RetryPolicy(attempts=3, backoff=0, max_backoff=0, budget=budget))
    await policy.call(Flaky(OSError(), OSError()))
    assert budget.balance == 8
    await policy.call(Flaky())
    assert budget.balance == 8.5


async def test_a_429_pauses_all_calls_and_those_with_an_earlier_deadline_are_refused_at_once() -> None:
    heard: list[events.Event] = []
    policy = Policy("llm", on=lambda error: from_status(429, {"retry-after": "30"}), retry=False)
    stop = events.subscribe(lambda event: heard.append(event) if event.name == "policy.paused" else None)
    with pytest.raises(OSError):
        await policy.call(Flaky(OSError()))
    stop()
    assert [(event.source, dict(event.data)) for event in heard] == [("llm", {"seconds": 30.0})]
    assert policy.snapshot()["breaker"]["state"] == "closed"
    assert policy.snapshot()["paused_for"] == pytest.approx(30)
    began = anyio.current_time()
    flaky = Flaky()
    with pytest.raises(CircuitOpen, match=r"llm asked for a pause that lasts another 30\.0 s") as caught, deadline(5):
        await policy.call(flaky)
    assert anyio.current_time() == began
    assert flaky.calls == 0
    assert caught.value.dependency == "llm"
    assert caught.value.retry_after == pytest.approx(30)
    assert await policy.call(Flaky(), key="another model") == "ok"
    with deadline(40):
        assert await policy.call(flaky) == "ok"
    assert anyio.current_time() == pytest.approx(began + 30)
    assert policy.snapshot()["paused_for"] == 0


async def test_a_429_is_retried_when_the_pause_is_over() -> None:
    policy = Policy(on=lambda error: from_status(429, {"retry-after": "3"}), retry=QUICK)
    began = anyio.current_time()
    assert await policy.call(Flaky(OSError())) == "ok"
    assert 3 <= anyio.current_time() - began <= 3.3 + 1e-6
    assert policy.snapshot()["breaker"]["failure"] == 0


async def test_a_pause_that_begins_in_the_queue_delays_the_caller_without_a_place() -> None:
    policy = Policy(bulkhead=Bulkhead(1), on=lambda error: from_status(429, {"retry-after": "7"}), retry=False)
    ended: list[float] = []

    async def refused() -> None:
        with pytest.raises(OSError):
            await policy.call(Flaky(OSError(), seconds=1))

    async def queued() -> None:
        await policy.call(Flaky())
        ended.append(anyio.current_time())

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(refused)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(queued)
        await anyio.sleep(2)
        at_rest(policy)()
    assert ended == [pytest.approx(began + 8)]


async def test_a_pause_has_a_maximum() -> None:
    policy = Policy(on=lambda error: from_status(429, {"retry-after": "86400"}), retry=QUICK)
    flaky = Flaky(OSError())
    with pytest.raises(OSError), deadline(1_000):
        await policy.call(flaky)
    assert flaky.calls == 1
    assert policy.snapshot()["paused_for"] == pytest.approx(120)


@pytest.mark.parametrize("judgement", [lambda error: 1 / 0, lambda error: True, lambda error: "yes"])
async def test_an_invalid_judgement_leaks_nothing(judgement: Any, caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy(on=judgement, bulkhead=Bulkhead(1, queue=0))
    for _ in range(3):
        with pytest.raises(OSError):
            await policy.call(Flaky(OSError()))
    at_rest(policy)()
    assert "on=" in caplog.text


async def test_each_key_has_its_own_breaker_and_their_number_is_limited() -> None:
    policy = Policy("llm", on=OSError, retry=False, breaker=CircuitBreaker(minimum_throughput=1), max_keys=2)
    with pytest.raises(OSError):
        await policy.call(Flaky(OSError()), key="a")
    assert await policy.call(Flaky(), key="b") == "ok"
    with pytest.raises(CircuitOpen, match=r"llm\[a\]"):
        await policy.call(Flaky(), key="a")
    await policy.call(Flaky(), key="c")
    assert set(policy.snapshot()["keys"]) == {"a", "c"}
    assert policy.breaker("a") is not policy.breaker()
    assert policy.breaker("a") is policy.breaker("a")


async def test_a_breaker_can_be_shared_and_then_opens_for_all() -> None:
    shared = CircuitBreaker(name="database", minimum_throughput=2)
    reader, writer = Policy("reader", breaker=shared, retry=False), Policy("writer", breaker=shared, retry=False)
    for policy in (reader, writer):
        with pytest.raises(OSError):
            await policy.call(Flaky(OSError()))
    for policy in (reader, writer):
        with pytest.raises(CircuitOpen, match="breaker of database is open"):
            await policy.call(Flaky())


async def test_parts_take_the_policys_name_unless_they_have_one() -> None:
    named = Bulkhead(1, name="pool")
    policy = Policy("crm", bulkhead=named)
    assert named.name == "pool"
    assert policy.name == "crm"
    breaker = policy.breaker()
    assert breaker is not None
    assert breaker.name == "crm"


async def test_every_part_can_be_switched_off() -> None:
    policy = Policy(bulkhead=False, retry=False, breaker=False)
    assert (policy.bulkhead, policy.breaker(), policy.breaker("key")) == (None, None, None)
    assert await policy.call(Flaky(), key="key") == "ok"
    for _ in range(50):
        with pytest.raises(OSError):
            await policy.call(Flaky(OSError()))
    with pytest.raises(DeadlineExceeded), deadline(3):
        await policy.call(anyio.sleep_forever)
    assert await policy.call(Flaky()) == "ok"


async def test_an_attempt_inherits_the_earlier_limit_and_leaves_none_behind() -> None:
    seen: list[float] = []

    async def look() -> None:
        current = Deadline.current()
        assert current is not None
        seen.append(current.remaining())

    await Policy(attempt_timeout=3).call(look)
    with deadline(2):
        await Policy(attempt_timeout=3).call(look)
    await Policy(timeout=1, attempt_timeout=3).call(look)
    assert seen == pytest.approx([3, 2, 1])
    assert Deadline.current() is None


async def test_a_task_cancel_is_raised_as_a_cancellation(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")
    policy = Policy(on=OSError, retry=QUICK)
    task = asyncio.ensure_future(policy.call(anyio.sleep_forever))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert policy.snapshot()["breaker"]["neutral"] == 1
    at_rest(policy)()


def test_the_limits_are_checked() -> None:
    for name in ("timeout", "attempt_timeout", "first_timeout", "idle_timeout"):
        for bad in (0, -1, float("nan")):
            with pytest.raises(ValueError, match=f"^{name} is"):
                Policy(**{name: bad})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_keys"):
        Policy(max_keys=0)
    assert Policy(max_keys=1).first_timeout == 10


def test_the_defaults_are_what_the_documentation_says() -> None:
    policy = Policy()
    assert policy.bulkhead is not None
    assert (policy.bulkhead.limit, policy.bulkhead.queue) == (64, 256)
    dependency = policy._dependency
    assert (dependency.timeout, dependency.attempt_timeout, dependency.first_timeout, dependency.idle_timeout) == (
        30,
        10,
        10,
        10,
    )
    assert dependency.retry == RetryPolicy()
    assert (RetryPolicy().attempts, RetryPolicy().backoff, RetryPolicy().max_backoff) == (3, 0.25, 8)
    assert policy.has_default_breaker
    assert not Policy(breaker=CircuitBreaker()).has_default_breaker
    breaker = policy.breaker()
    assert breaker is not None
    assert (breaker.failure_ratio, breaker.minimum_throughput, breaker.sampling_duration) == (0.5, 10, 30)
    assert (breaker.break_duration, breaker.max_break_duration, breaker.probes) == (5, 60, 2)


def test_a_policy_may_be_made_outside_an_event_loop_and_change_loops_while_idle() -> None:
    policy = Policy("crm")
    for backend in ("asyncio", "trio", "asyncio"):
        assert anyio.run(policy.call, Flaky(OSError()), backend=backend) == "ok"


async def test_the_reason_that_prevents_a_retry_is_an_event() -> None:
    heard: list[tuple[str, str, dict[str, Any]]] = []
    stop = events.subscribe(
        lambda event: (
            heard.append((event.name, event.source, dict(event.data)))
            if event.name.startswith(("retry.", "deadline."))
            else None
        )
    )
    # The wait is a random number from 0 to 1e9 seconds, so it is practically never shorter than the deadline of one second.
    slow = RetryPolicy(attempts=2, backoff=1e9, max_backoff=1e9)
    with pytest.raises(OSError), deadline(1):
        await Policy("crm", retry=slow).call(Flaky(OSError(), OSError()))
    broke = RetryPolicy(attempts=2, backoff=0, max_backoff=0, budget=RetryBudget(ratio=0, reserve=0))
    with pytest.raises(OSError):
        await Policy("crm", retry=broke).call(Flaky(OSError(), OSError()))
    with pytest.raises(DeadlineExceeded):
        await Policy("crm", timeout=2).call(anyio.sleep_forever)
    stop()
    wait = heard[0][2].pop("wait")
    assert 1 <= wait <= 1e9
    elapsed = heard[2][2].pop("elapsed")
    assert elapsed == pytest.approx(2)
    assert heard == [
        ("retry.no_time", "crm", {"attempt": 2, "error": "OSError"}),
        ("retry.budget_empty", "crm", {"attempt": 2, "error": "OSError"}),
        ("deadline.exceeded", "crm", {"waiting": "waiting for the answer"}),
    ]


async def test_the_bulkhead_learns_from_the_dependencys_time() -> None:
    policy = Policy(bulkhead=Bulkhead(1), retry=False)
    bulkhead = policy.bulkhead
    assert bulkhead is not None
    with pytest.raises(KeyError):
        await policy.call(Flaky(KeyError(), seconds=9))
    assert bulkhead.snapshot()["service_time"] is None
    await policy.call(Flaky(seconds=4))
    assert bulkhead.snapshot()["service_time"] == pytest.approx(4)
    with pytest.raises(OSError):
        await policy.call(Flaky(OSError(), seconds=9))
    assert bulkhead.snapshot()["service_time"] == pytest.approx(5)


async def test_a_pause_applies_to_its_key_also_for_queued_callers() -> None:
    policy = Policy(
        "llm", bulkhead=Bulkhead(1), on=lambda error: from_status(429, {"retry-after": "7"}), retry=False, max_keys=2
    )
    with pytest.raises(OSError):
        await policy.call(Flaky(OSError()), key="a")
    began = anyio.current_time()
    ended: list[tuple[str, float]] = []

    async def one(key: str, seconds: float) -> None:
        await policy.call(Flaky(seconds=seconds), key=key)
        ended.append((key, anyio.current_time() - began))

    async with anyio.create_task_group() as group:
        group.start_soon(one, "b", 1)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(one, "b", 1)
        group.start_soon(one, "a", 1)
    assert [key for key, _ in ended] == ["b", "b", "a"]
    assert [moment for _, moment in ended] == pytest.approx([1, 2, 8])
    with deadline(5):
        with pytest.raises(OSError):
            await policy.call(Flaky(OSError()))
        with pytest.raises(CircuitOpen) as caught:
            await policy.call(Flaky())
    assert caught.value.retry_after == pytest.approx(7)


async def test_a_pause_that_ends_with_the_deadline_is_refused() -> None:
    policy = Policy(on=lambda error: from_status(429, {"retry-after": "7"}), retry=False)
    with deadline(7):
        with pytest.raises(OSError):
            await policy.call(Flaky(OSError()))
        with pytest.raises(CircuitOpen):
            await policy.call(Flaky())


async def test_queue_and_pauses_work_without_a_breaker() -> None:
    policy = Policy(
        bulkhead=Bulkhead(1, queue=1),
        breaker=False,
        retry=False,
        on=lambda error: from_status(429, {"retry-after": "2"}),
    )
    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(policy.call, Flaky(seconds=1))
        await anyio.wait_all_tasks_blocked()
        assert await policy.call(Flaky()) == "ok"
    assert anyio.current_time() == pytest.approx(began + 1)
    short = Policy(bulkhead=policy.bulkhead, breaker=False, timeout=1)
    async with anyio.create_task_group() as group:
        group.start_soon(policy.call, Flaky(seconds=5))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Overloaded):
            await short.call(Flaky())
    with pytest.raises(OSError):
        await policy.call(Flaky(OSError()))
    assert await policy.call(Flaky()) == "ok"
    assert anyio.current_time() == pytest.approx(began + 8)


async def test_a_caller_takes_a_place_that_is_free_again_without_queueing() -> None:
    policy = Policy(bulkhead=Bulkhead(1, queue=0), on=lambda error: from_status(429, {"retry-after": "2"}), retry=False)
    with pytest.raises(OSError):
        await policy.call(Flaky(OSError()))
    assert await policy.call(Flaky()) == "ok"


async def test_a_retry_after_is_obeyed_also_for_an_error_that_counts() -> None:
    policy = Policy(on=lambda error: from_status(503, {"retry-after": "6"}), retry=QUICK)
    began = anyio.current_time()
    assert await policy.call(Flaky(OSError())) == "ok"
    assert 6 <= anyio.current_time() - began <= 6.6 + 1e-6
    assert policy.snapshot()["paused_for"] == 0
    assert policy.snapshot()["breaker"]["failure"] == 1


async def test_a_failure_with_retry_false_is_not_retried() -> None:
    policy = Policy(on=lambda error: Failure(retry=False), retry=QUICK)
    flaky = Flaky(OSError())
    with pytest.raises(OSError):
        await policy.call(flaky)
    assert flaky.calls == 1
    assert policy.snapshot()["breaker"]["failure"] == 1
    assert policy.snapshot()["retry_budget"]["spent"] == 0


async def test_an_error_at_the_deadline_is_judged_like_any_other() -> None:
    policy = Policy(retry=False, timeout=5)

    async def late() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(6)
        raise OSError("it counts against the dependency, although it came after the deadline")

    with pytest.raises(OSError):
        await policy.call(late)
    assert policy.snapshot()["breaker"]["failure"] == 1


async def test_an_earlier_cancellation_of_the_task_does_not_count(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")
    policy = Policy(retry=QUICK)

    async def carries_on() -> str:
        with suppress(asyncio.CancelledError):  # without uncancel(), so that the count of cancellations stays above 0
            await asyncio.sleep(99)
        return await policy.call(Flaky(OSError()))

    task = asyncio.ensure_future(carries_on())
    await asyncio.sleep(1)
    task.cancel()
    assert await task == "ok"
    assert policy.snapshot()["breaker"]["failure"] == 1


async def test_the_snapshot_names_the_dependency_and_its_budget() -> None:
    snapshot = Policy("crm").snapshot()
    assert (snapshot["name"], snapshot["retry_budget"]["reserve"]) == ("crm", 10)
    assert RetryBudget().ratio == 0.2
    assert Policy(retry=False).snapshot()["retry_budget"] is None


async def test_a_timeout_of_a_nested_policy_is_an_ordinary_error() -> None:
    inner = Policy("inner", attempt_timeout=1, retry=False)
    outer = Policy("outer", on=lambda error: None, retry=QUICK, first_timeout=50)
    with pytest.raises(TimeoutError, match="inner did not answer"):
        await outer.call(partial(inner.call, anyio.sleep_forever))
    assert outer.snapshot()["breaker"]["neutral"] == 1

    async def items() -> AsyncIterator[str]:
        await inner.call(anyio.sleep_forever)
        yield "never"

    with pytest.raises(TimeoutError, match="inner did not answer"):
        async with outer.hold() as held:
            async for _ in held.items(items()):
                pass


async def test_with_an_infinite_deadline_the_policys_timeout_applies() -> None:
    policy = Policy(timeout=1, attempt_timeout=10)
    began = anyio.current_time()
    for endless in (deadline(float("inf")), reserve(1)):
        with pytest.raises(DeadlineExceeded), endless:
            await policy.call(anyio.sleep_forever)
    assert anyio.current_time() == pytest.approx(began + 2)


async def test_isolating_the_breaker_refuses_queued_callers_with_a_key_at_once() -> None:
    policy = Policy(bulkhead=Bulkhead(1))
    breaker = policy.breaker()
    assert breaker is not None
    async with anyio.create_task_group() as group:
        group.start_soon(policy.call, Flaky(seconds=5))
        await anyio.wait_all_tasks_blocked()

        async def queued() -> None:
            with pytest.raises(CircuitOpen, match="by hand"):
                await policy.call(Flaky(), key="model")
            assert anyio.current_time() == pytest.approx(began)

        began = anyio.current_time()
        group.start_soon(queued)
        await anyio.wait_all_tasks_blocked()
        breaker.isolate()


async def test_a_caller_that_leaves_late_does_not_count_against_the_dependency() -> None:
    breaker = CircuitBreaker(minimum_throughput=1)
    policy = Policy(breaker=breaker)
    for _ in range(5):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(policy.call, anyio.sleep_forever)
                await anyio.sleep(5)
                scope.cancel()
    assert policy.snapshot()["breaker"]["neutral"] == 5
    assert policy.snapshot()["bulkhead"]["service_time"] is None


@pytest.mark.parametrize("wrong", [(OSError, "x"), "OSError", 3, [OSError]])
def test_on_is_validated_when_the_policy_is_made(wrong: Any) -> None:
    with pytest.raises(ValueError, match="it must be an error type"):
        Policy(on=wrong)


@pytest.mark.parametrize("wrong", ["2", -1, float("nan")])
async def test_an_invalid_wait_leaks_nothing_and_is_reported(wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy(on=lambda error: Failure(counts=False, retry_after=wrong), bulkhead=Bulkhead(1, queue=0))
    for _ in range(3):
        with pytest.raises(OSError):
            await policy.call(Flaky(OSError()))
    at_rest(policy)()
    assert "retry_after is" in caplog.text
    with pytest.raises(OSError):
        await policy.call(Flaky(OSError()), on=("x",))  # type: ignore[arg-type]
    at_rest(policy)()


async def test_with_an_empty_tuple_no_error_is_retryable() -> None:
    flaky = Flaky(OSError())
    with pytest.raises(OSError):
        await Policy(on=(), retry=QUICK).call(flaky)
    assert flaky.calls == 1


async def test_isolating_the_breaker_stops_the_retries_of_a_call_with_a_key() -> None:
    policy = Policy(retry=RetryPolicy(attempts=9, backoff=10, max_backoff=10))
    breaker = policy.breaker()
    assert breaker is not None
    flaky = Flaky(*(OSError() for _ in range(9)))
    async with anyio.create_task_group() as group:

        async def one() -> None:
            with pytest.raises(CircuitOpen, match="by hand"), deadline(500):
                await policy.call(flaky, key="model")

        group.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        before = flaky.calls  # the first wait is random and may be close to 0
        breaker.isolate()
    assert flaky.calls == before


async def test_isolating_the_breaker_reaches_a_call_that_waits_for_a_pause() -> None:
    policy = Policy(on=lambda error: from_status(429, {"retry-after": "5"}), retry=False)
    breaker = policy.breaker()
    assert breaker is not None
    with pytest.raises(OSError):
        await policy.call(Flaky(OSError()), key="m")
    flaky = Flaky()
    async with anyio.create_task_group() as group:

        async def waits() -> None:
            with pytest.raises(CircuitOpen, match="by hand"):
                await policy.call(flaky, key="m")

        group.start_soon(waits)
        await anyio.wait_all_tasks_blocked()
        breaker.isolate()
    assert flaky.calls == 0


async def test_a_caller_cancelled_in_the_step_of_its_turn_passes_the_place_on() -> None:
    policy = Policy(bulkhead=Bulkhead(1), retry=False)
    bulkhead = policy.bulkhead
    assert bulkhead is not None
    await bulkhead.acquire()
    scope = anyio.CancelScope()
    outcomes: list[str] = []

    async def first() -> None:
        with scope:
            await policy.call(Flaky())
            outcomes.append("first")

    async def second() -> None:
        outcomes.append(f"second {await policy.call(Flaky())}")

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        bulkhead.release()
        scope.cancel()
    assert outcomes == ["second ok"]
    at_rest(policy)()


async def test_a_task_cancel_in_the_step_of_its_turn_passes_the_place_on(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")
    policy = Policy(bulkhead=Bulkhead(1), retry=False)
    bulkhead = policy.bulkhead
    assert bulkhead is not None
    await bulkhead.acquire()
    task = asyncio.ensure_future(policy.call(Flaky()))
    await anyio.wait_all_tasks_blocked()
    bulkhead.release()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.__cause__ is None, "giving the place back failed"
    at_rest(policy)()

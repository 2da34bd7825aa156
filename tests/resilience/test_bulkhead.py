"""The bulkhead."""

from __future__ import annotations

import math
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from ragcore import events
from ragcore.resilience import Bulkhead, Overloaded, deadline, flow
from ragcore.resilience.flow import MOST_FLOWS

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("limit", [1, 3])
async def test_it_never_exceeds_its_limit_and_admits_callers_in_order(limit: int) -> None:
    bulkhead = Bulkhead(limit, queue=10)
    came: list[int] = []
    let_in: list[int] = []
    most = 0

    async def one(number: int) -> None:
        nonlocal most
        came.append(number)
        await bulkhead.acquire()
        let_in.append(number)
        most = max(most, bulkhead.inside)
        await anyio.sleep(1 + number / 100)
        bulkhead.release()

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(one, number)
            await anyio.lowlevel.checkpoint()
    if limit == 1:  # callers that are admitted in the same step may wake in any order
        assert let_in == came
    assert sorted(let_in) == sorted(came)
    assert (most, bulkhead.inside, bulkhead.waiting) == (limit, 0, 0)
    assert bulkhead.snapshot()["admitted"] == 8


async def test_a_full_queue_refuses_at_once_with_the_numbers_and_advice() -> None:
    heard: list[events.Event] = []
    stop = events.subscribe(heard.append)
    bulkhead = Bulkhead(1, queue=0, name="db")
    async with bulkhead:
        with pytest.raises(
            Overloaded, match=r"db is overloaded: concurrency limit and queue are full \(1 running, 0 waiting\)"
        ) as caught:
            await bulkhead.acquire()
    stop()
    assert caught.value.dependency == "db"
    assert caught.value.retry_after == 0.1
    assert bulkhead.inside == 0
    assert [(event.name, event.source, dict(event.data)) for event in heard] == [
        ("bulkhead.rejected", "db", {"waiting": 0, "expected_wait": 0.0})
    ]
    assert bulkhead.snapshot()["rejected"] == 1


async def test_the_queue_is_four_times_the_limit_by_default() -> None:
    assert Bulkhead(3).queue == 12
    assert Bulkhead(3, queue=0).queue == 0
    for limit, queue in ((0, None), (-1, None), (1, -1)):
        with pytest.raises(ValueError):
            Bulkhead(limit, queue=queue)


async def test_a_caller_with_too_little_time_is_refused_at_once_unless_a_place_is_free() -> None:
    bulkhead = Bulkhead(2, queue=10)
    for _ in range(2):
        await bulkhead.acquire()
    bulkhead.release(service_time=10.0)
    now = anyio.current_time()
    await bulkhead.acquire(now + 1)  # too little time by the estimate, but a place is free
    assert bulkhead.expected_wait() == 5.0  # one of two places becomes free every 5 s
    with pytest.raises(Overloaded, match=r"recent calls took 10\.0 s and only 9\.9 s are left") as caught:
        await bulkhead.acquire(now + 9.9)
    assert caught.value.retry_after == 5.0
    assert anyio.current_time() == pytest.approx(now)
    async with anyio.create_task_group() as group:
        group.start_soon(bulkhead.acquire, now + 10.1)
        await anyio.wait_all_tasks_blocked()
        assert bulkhead.waiting == 1
        bulkhead.release()
    assert (bulkhead.inside, bulkhead.waiting) == (2, 0)


async def test_a_waiting_caller_is_refused_as_soon_as_its_remaining_time_is_too_short() -> None:
    bulkhead = Bulkhead(1, queue=10, name="db")
    await bulkhead.acquire()
    bulkhead.release(service_time=2.0)
    await bulkhead.acquire()
    began = anyio.current_time()
    with pytest.raises(Overloaded, match=r"db is overloaded: no place within 3\.0 s; 1 caller was waiting"):
        await bulkhead.acquire(began + 5)
    assert anyio.current_time() == pytest.approx(began + 3)
    assert (bulkhead.inside, bulkhead.waiting) == (1, 0)


async def test_a_changed_service_time_changes_how_long_a_caller_waits() -> None:
    for seconds, refused_after in ((1.0, 8.2), (6.0, 7.2)):
        bulkhead = Bulkhead(2, queue=10)
        await bulkhead.acquire()
        bulkhead.release(service_time=2.0)
        for _ in range(2):
            await bulkhead.acquire()
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            bulkhead.release(service_time=seconds)  # the new service time is 1.8 or 2.8
            await bulkhead.acquire()
            with pytest.raises(Overloaded):
                await bulkhead.acquire(began + 10)
            group.cancel_scope.cancel()
        assert anyio.current_time() - began == pytest.approx(refused_after)


async def test_with_too_many_callers_the_newest_come_first_and_hopeless_ones_are_refused() -> None:
    bulkhead = Bulkhead(1, queue=100)
    await bulkhead.acquire()
    bulkhead.release(service_time=1.0)
    await bulkhead.acquire()
    began = anyio.current_time()
    served: list[int] = []
    refused: dict[int, float] = {}

    async def one(number: int) -> None:
        try:
            await bulkhead.acquire(began + 4.5)
        except Overloaded:
            refused[number] = anyio.current_time() - began
            return
        served.append(number)
        await anyio.sleep(1)
        bulkhead.release(service_time=1.0)

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(one, number)
            await anyio.wait_all_tasks_blocked()
        assert sorted(refused) == [0, 1, 2, 3]
        assert max(refused.values()) < 1, "hopeless callers are refused at once"
        bulkhead.release(service_time=1.0)
    assert served == [7, 6, 5, 4]
    assert (bulkhead.inside, bulkhead.waiting) == (0, 0)


async def test_the_order_is_first_in_first_out_again_after_the_queue_was_empty() -> None:
    bulkhead = Bulkhead(1, queue=100)
    await bulkhead.acquire()
    served: list[int] = []

    async def one(number: int, when: float = math.inf) -> None:
        with suppress(Overloaded):
            await bulkhead.acquire(when)
            served.append(number)
            bulkhead.release()

    async with anyio.create_task_group() as group:
        group.start_soon(one, 1, anyio.current_time() + 1)
        await anyio.sleep(2)
        assert served == []
        for number in (2, 3, 4):
            group.start_soon(one, number)
            await anyio.wait_all_tasks_blocked()
        bulkhead.release()
    assert served == [2, 3, 4]


async def hold_all(bulkhead: Bulkhead, flow: str, served: list[str], count: int, seconds: float = 1.0) -> None:
    """Start callers of one flow at once. Each holds its place for the given seconds."""

    async def one() -> None:
        await bulkhead.acquire(flow=flow)
        served.append(flow)
        await anyio.sleep(seconds)
        bulkhead.release(service_time=seconds, flow=flow)

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one)


async def test_flows_are_served_in_turn() -> None:
    bulkhead = Bulkhead(1, queue=100)
    served: list[str] = []
    async with anyio.create_task_group() as group:
        for flow, count in (("a", 6), ("b", 3), ("c", 2)):
            group.start_soon(hold_all, bulkhead, flow, served, count)
            await anyio.wait_all_tasks_blocked()
    assert "".join(served) in ("aabcabcabaa", "abcabcabaaa")
    assert (bulkhead.inside, bulkhead.waiting) == (0, 0)


async def test_a_flow_whose_calls_take_longer_has_fewer_turns() -> None:
    bulkhead = Bulkhead(1, queue=1_000)
    served: list[str] = []
    with anyio.move_on_after(400):
        async with anyio.create_task_group() as group:
            group.start_soon(hold_all, bulkhead, "long", served, 300, 3.0)
            group.start_soon(hold_all, bulkhead, "short", served, 300, 1.0)
    seconds = {"long": 3 * served.count("long"), "short": served.count("short")}
    assert seconds["long"] / seconds["short"] == pytest.approx(1, abs=0.35)


async def test_a_flow_holds_all_places_when_alone_and_its_share_while_others_wait() -> None:
    bulkhead = Bulkhead(4, queue=100)
    served: list[str] = []
    held: list[tuple[int, int]] = []
    async with anyio.create_task_group() as group:
        group.start_soon(hold_all, bulkhead, "hog", served, 40)
        await anyio.sleep(0.5)
        assert (bulkhead.holds("hog"), bulkhead.share("hog")) == (4, 4)
        group.start_soon(hold_all, bulkhead, "other", served, 10)
        for _ in range(4):
            await anyio.sleep(1)
            held.append((bulkhead.holds("hog"), bulkhead.holds("other")))
        assert bulkhead.share("other") == 2
    assert held[1:] == [(2, 2)] * 3
    assert len(served) == 50


async def test_a_full_queue_makes_room_for_a_flow_that_has_less_than_its_share() -> None:
    bulkhead = Bulkhead(1, queue=4, name="db")
    await bulkhead.acquire()
    refused: list[str] = []
    served: list[str] = []

    async def one(flow: str) -> None:
        try:
            await bulkhead.acquire(flow=flow)
        except Overloaded as error:
            assert "full" in str(error)
            refused.append(flow)
            return
        served.append(flow)
        bulkhead.release(flow=flow)

    async with anyio.create_task_group() as group:
        for flow in ("hog", "hog", "hog", "hog", "hog", "other", "other", "other"):
            group.start_soon(one, flow)
            await anyio.wait_all_tasks_blocked()
        assert bulkhead.waiting == 4
        bulkhead.release()
    assert refused == ["hog", "hog", "hog", "other"]
    assert sorted(served) == ["hog", "hog", "other", "other"]


async def test_a_place_given_back_under_another_name_is_not_lost() -> None:
    bulkhead = Bulkhead(2)
    with flow("a"):
        await bulkhead.acquire()
        await bulkhead.acquire()
    bulkhead.release()
    bulkhead.release(flow="nobody")
    assert (bulkhead.inside, bulkhead.holds("a"), bulkhead.snapshot()["flows"]) == (0, 0, 0)


async def test_it_remembers_ten_thousand_flows_and_forgets_none_that_has_a_call_under_way() -> None:
    bulkhead = Bulkhead(3)
    assert bulkhead.try_acquire("busy")
    for number in range(MOST_FLOWS + 50):
        assert bulkhead.try_acquire(str(number))
        bulkhead.release(flow=str(number))
    assert len(bulkhead._places.flows) == MOST_FLOWS
    assert bulkhead.holds("busy") == 1


async def test_it_learns_the_service_time() -> None:
    bulkhead = Bulkhead(1)
    assert bulkhead.snapshot()["service_time"] is None
    for seconds in (1.0, 2.0, None):
        await bulkhead.acquire()
        bulkhead.release(seconds)
    assert bulkhead.snapshot()["service_time"] == pytest.approx(1.2)
    assert bulkhead.expected_wait() == 0


async def test_the_enclosing_deadline_applies() -> None:
    bulkhead = Bulkhead(1)
    await bulkhead.acquire()
    bulkhead.release(service_time=10.0)
    async with bulkhead, anyio.create_task_group() as group:
        group.start_soon(bulkhead.acquire)
        await anyio.wait_all_tasks_blocked()
        with deadline(5), pytest.raises(Overloaded):
            async with bulkhead:
                raise AssertionError
        group.cancel_scope.cancel()
    assert (bulkhead.inside, bulkhead.waiting) == (0, 0)


async def test_a_queue_place_is_not_leaked_by_a_cancelled_waiter() -> None:
    bulkhead = Bulkhead(1, queue=1)
    await bulkhead.acquire()
    for _ in range(3):
        with anyio.move_on_after(1):
            await bulkhead.acquire()
        assert bulkhead.waiting == 0
    bulkhead.release()
    assert bulkhead.inside == 0


async def test_a_waiter_cancelled_in_the_step_of_its_turn_passes_the_place_on() -> None:
    bulkhead = Bulkhead(1)
    await bulkhead.acquire()
    got: list[str] = []

    async def wait(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            await bulkhead.acquire()
            try:
                await anyio.lowlevel.checkpoint()
                got.append(name)
            finally:
                bulkhead.release()

    first, second = anyio.CancelScope(), anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(wait, "first", first)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(wait, "second", second)
        await anyio.wait_all_tasks_blocked()
        bulkhead.release()
        first.cancel()
    assert got == ["second"]
    assert (bulkhead.inside, bulkhead.waiting) == (0, 0)


async def test_no_caller_overtakes_waiting_callers() -> None:
    bulkhead = Bulkhead(1)
    await bulkhead.acquire()
    async with anyio.create_task_group() as group:
        group.start_soon(bulkhead.acquire)
        await anyio.wait_all_tasks_blocked()
        bulkhead.release()
        assert not bulkhead.try_acquire()
    assert bulkhead.inside == 1
    bulkhead.release()
    assert bulkhead.try_acquire()


async def test_a_raised_limit_admits_at_once_and_a_lowered_one_interrupts_no_call() -> None:
    bulkhead = Bulkhead(1)
    entered: list[int] = []

    async def one(number: int) -> None:
        await bulkhead.acquire()
        entered.append(number)

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(one, number)
        await anyio.wait_all_tasks_blocked()
        assert len(entered) == 1
        bulkhead.limit = 3
        await anyio.wait_all_tasks_blocked()
        assert len(entered) == bulkhead.inside == 3
        bulkhead.limit = 1
        assert bulkhead.limit == 1
        bulkhead.release()
        bulkhead.release()
        await anyio.wait_all_tasks_blocked()
        assert (bulkhead.inside, bulkhead.waiting) == (1, 1)
        bulkhead.release()
    assert bulkhead.inside == 1
    with pytest.raises(ValueError):
        bulkhead.limit = 0


async def test_the_start_and_the_end_of_a_wait_are_events() -> None:
    heard: list[events.Event] = []
    bulkhead = Bulkhead(1, name="db")
    await bulkhead.acquire()
    stop = events.subscribe(heard.append)
    async with anyio.create_task_group() as group:
        group.start_soon(bulkhead.acquire)
        await anyio.sleep(3)
        bulkhead.release()
    stop()
    assert [(event.name, event.source) for event in heard] == [("bulkhead.waiting", "db"), ("bulkhead.admitted", "db")]
    assert heard[0].data == {"waiting": 1}
    assert heard[1].data["waited"] == pytest.approx(3)


async def test_without_a_deadline_a_caller_waits_without_limit() -> None:
    bulkhead = Bulkhead(1)
    await bulkhead.acquire(math.inf)
    bulkhead.release(service_time=1e6)
    await bulkhead.acquire()
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(bulkhead.acquire)
        await anyio.sleep(1e6)
        assert bulkhead.waiting == 3
        for _ in range(3):
            bulkhead.release()
            await anyio.wait_all_tasks_blocked()


async def test_the_snapshot_has_the_name_and_counters() -> None:
    bulkhead = Bulkhead(1, queue=0, name="db")
    assert bulkhead.try_acquire()
    for _ in range(2):
        with pytest.raises(Overloaded):
            await bulkhead.acquire()
    snapshot = bulkhead.snapshot()
    assert (snapshot["name"], snapshot["queue"], snapshot["rejected"], snapshot["limit"]) == ("db", 0, 2, 1)


async def test_a_caller_with_just_enough_time_waits() -> None:
    bulkhead = Bulkhead(1)
    await bulkhead.acquire()
    bulkhead.release(service_time=4.0)
    await bulkhead.acquire()
    async with anyio.create_task_group() as group:
        group.start_soon(bulkhead.acquire, anyio.current_time() + 5)
        await anyio.sleep(0.999)
        bulkhead.release()
    assert (bulkhead.inside, bulkhead.waiting) == (1, 0)


async def ask_for_ever(bulkhead: Bulkhead, flow: str, served: list[str], seconds: float = 1.0) -> None:
    while True:
        await bulkhead.acquire(flow=flow)
        try:
            await anyio.sleep(seconds)
        finally:
            bulkhead.release(seconds, flow=flow)
        served.append(flow)


@pytest.mark.parametrize(("limit", "alone", "others"), [(1, 200, 1), (1, 50, 4), (4, 500, 8)])
async def test_a_flow_that_was_alone_has_no_debt_to_new_flows(limit: int, alone: int, others: int) -> None:
    bulkhead = Bulkhead(limit, queue=100)
    served: list[str] = []
    async with anyio.create_task_group() as group:
        for _ in range(limit + 3):
            group.start_soon(ask_for_ever, bulkhead, "first", served)
        await anyio.sleep(alone / limit)
        served.clear()
        for number in range(others):
            group.start_soon(ask_for_ever, bulkhead, f"other {number}", served)
        await anyio.sleep(60)
        group.cancel_scope.cancel()
    fair = 60 * limit / (others + 1)
    assert served.count("first") == pytest.approx(fair, rel=0.35)
    assert all(served.count(f"other {number}") == pytest.approx(fair, rel=0.35) for number in range(others))


async def test_a_patient_caller_is_not_overtaken_forever() -> None:
    bulkhead = Bulkhead(1, queue=100)
    waited: dict[str, float] = {}

    async def one(name: str, timeout: float) -> None:
        began = anyio.current_time()
        with suppress(Overloaded):
            await bulkhead.acquire(began + timeout)
            waited.setdefault(name, anyio.current_time() - began)
            try:
                await anyio.sleep(1)
            finally:
                bulkhead.release(1.0)

    async with anyio.create_task_group() as group:
        for number in range(400):  # twice as many as it can serve
            group.start_soon(one, f"hurried {number}", 5.0)
            if number == 50:
                group.start_soon(one, "patient", 600.0)
                group.start_soon(one, "without a deadline", math.inf)
            await anyio.sleep(0.5)
    assert waited["patient"] < 30
    assert waited["without a deadline"] < 30
    assert sum(name.startswith("hurried") for name in waited) > 180


async def test_a_caller_with_an_alternative_waits_only_until_its_own_limit() -> None:
    bulkhead = Bulkhead(1)
    await bulkhead.acquire()
    began = anyio.current_time()
    waiter = bulkhead.line.enqueue(began + 60, by=began + 4)
    with pytest.raises(Overloaded, match=r"no place within 4\.0 s; 1 caller was waiting"):
        await bulkhead.line.wait(waiter)
    assert anyio.current_time() - began == pytest.approx(4)


async def test_a_service_time_from_a_slow_period_is_forgotten() -> None:
    bulkhead = Bulkhead(1)
    await bulkhead.acquire()
    bulkhead.release(service_time=10.0)
    await bulkhead.acquire()
    bulkhead.release(service_time=0.1)  # a much faster call gets a weight of one half
    assert bulkhead.service_time == pytest.approx(5.05)
    await bulkhead.acquire()
    with pytest.raises(Overloaded, match=r"recent calls took 5\.0 s"):
        await bulkhead.acquire(anyio.current_time() + 4)
    await anyio.sleep(60)
    async with anyio.create_task_group() as group:
        group.start_soon(bulkhead.acquire, anyio.current_time() + 4)
        await anyio.wait_all_tasks_blocked()
        assert bulkhead.service_time == 0.0
        bulkhead.release(service_time=0.2)
    assert bulkhead.service_time == 0.2

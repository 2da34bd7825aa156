"""The bulkhead."""

from __future__ import annotations

import math

import anyio
import anyio.lowlevel
import pytest

from ragcore import events
from ragcore.resilience import Bulkhead, Overloaded, deadline

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("limit", [1, 3])
async def test_it_never_holds_more_than_its_limit_and_lets_in_by_order_of_coming(limit: int) -> None:
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
    if limit == 1:  # of those who are let in at one moment any may wake first
        assert let_in == came
    assert sorted(let_in) == sorted(came)
    assert (most, bulkhead.inside, bulkhead.waiting) == (limit, 0, 0)
    assert bulkhead.snapshot()["admitted"] == 8


async def test_a_full_queue_refuses_at_once_and_says_what_to_do() -> None:
    heard: list[events.Event] = []
    stop = events.subscribe(heard.append)
    bulkhead = Bulkhead(1, queue=0, name="db")
    async with bulkhead:
        with pytest.raises(Overloaded, match="db is overloaded: 1 calls are under way and 0 wait") as caught:
            await bulkhead.acquire()
    stop()
    assert caught.value.dependency == "db"
    assert caught.value.retry_after == 0.1
    assert bulkhead.inside == 0
    assert [(event.name, event.source, dict(event.data)) for event in heard] == [
        ("bulkhead.rejected", "db", {"waiting": 0, "expected_wait": 0.0})
    ]
    assert bulkhead.snapshot()["rejected"] == 1


async def test_the_queue_is_four_times_the_limit_unless_told() -> None:
    assert Bulkhead(3).queue == 12
    assert Bulkhead(3, queue=0).queue == 0
    for limit, queue in ((0, None), (-1, None), (1, -1)):
        with pytest.raises(ValueError):
            Bulkhead(limit, queue=queue)


async def test_a_wait_past_the_deadline_is_refused_at_once_but_never_while_nobody_waits() -> None:
    bulkhead = Bulkhead(2, queue=10)
    for _ in range(2):
        await bulkhead.acquire()
    bulkhead.release(service_time=10.0)
    await bulkhead.acquire()
    assert bulkhead.expected_wait() == 5.0  # the next of two places that turn over every 10 s
    now = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(bulkhead.acquire, now + 1)  # nobody waits: it may try
        await anyio.wait_all_tasks_blocked()
        assert bulkhead.expected_wait() == 10.0
        with pytest.raises(Overloaded, match=r"about 10\.0 s, which is past the deadline") as caught:
            await bulkhead.acquire(now + 9.9)
        assert caught.value.retry_after == 10.0
        assert anyio.current_time() == pytest.approx(now)
        group.start_soon(bulkhead.acquire, now + 10.1)
        await anyio.wait_all_tasks_blocked()
        assert bulkhead.waiting == 2
        bulkhead.release()
        bulkhead.release()
    assert (bulkhead.inside, bulkhead.waiting) == (2, 0)


async def test_it_learns_how_long_a_place_is_used() -> None:
    bulkhead = Bulkhead(1)
    assert bulkhead.snapshot()["service_time"] is None
    for seconds in (1.0, 2.0, None):
        await bulkhead.acquire()
        bulkhead.release(seconds)
    assert bulkhead.snapshot()["service_time"] == pytest.approx(1.2)
    assert bulkhead.expected_wait() == 0


async def test_the_deadline_around_it_is_seen() -> None:
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


async def test_a_waiter_cancelled_in_the_moment_of_its_turn_passes_the_place_on() -> None:
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


async def test_nobody_overtakes_those_who_wait() -> None:
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


async def test_a_raised_limit_lets_in_at_once_and_a_lowered_one_throws_nobody_out() -> None:
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


async def test_waiting_and_its_end_are_events() -> None:
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


async def test_without_a_deadline_it_waits_as_long_as_it_takes() -> None:
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


async def test_the_snapshot_says_whose_it_is_and_counts() -> None:
    bulkhead = Bulkhead(1, queue=0, name="db")
    assert bulkhead.try_acquire()
    for _ in range(2):
        with pytest.raises(Overloaded):
            await bulkhead.acquire()
    snapshot = bulkhead.snapshot()
    assert (snapshot["name"], snapshot["queue"], snapshot["rejected"], snapshot["limit"]) == ("db", 0, 2, 1)


async def test_a_wait_that_ends_with_the_deadline_is_worth_it() -> None:
    bulkhead = Bulkhead(1)
    await bulkhead.acquire()
    bulkhead.release(service_time=4.0)
    await bulkhead.acquire()
    async with anyio.create_task_group() as group:
        group.start_soon(bulkhead.acquire)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(bulkhead.acquire, anyio.current_time() + bulkhead.expected_wait())
        await anyio.wait_all_tasks_blocked()
        assert bulkhead.waiting == 2
        group.cancel_scope.cancel()

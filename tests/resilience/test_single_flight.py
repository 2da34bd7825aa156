"""Single flight."""

from __future__ import annotations

from contextvars import ContextVar

import anyio
import anyio.lowlevel
import pytest

from ragcore import NotOpen, events
from ragcore.resilience import Deadline, DeadlineExceeded, SingleFlight, deadline
from ragcore.resilience.single_flight import own_copy
from tests.resilience.conftest import Flaky

pytestmark = pytest.mark.anyio


async def test_equal_work_at_once_is_done_once_and_different_work_is_not() -> None:
    runs: list[str] = []

    async def work(key: str) -> str:
        runs.append(key)
        await anyio.sleep(1)
        return key.upper()

    results: list[str] = []
    heard: list[str] = []
    stop = events.subscribe(lambda event: heard.append(f"{event.name} {event.source}"))
    async with SingleFlight(name="embedding") as flights:

        async def one(key: str) -> None:
            results.append(await flights.call(key, lambda: work(key)))

        async with anyio.create_task_group() as group:
            for key in ("a", "a", "b", "a"):
                group.start_soon(one, key)
            await anyio.wait_all_tasks_blocked()
            assert flights.snapshot().to_dict() == {"name": "embedding", "flying": 2, "led": 2, "joined": 2}
        assert (sorted(runs), sorted(results)) == (["a", "b"], ["A", "A", "A", "B"])
        assert await flights.call("a", lambda: work("a")) == "A"
        assert sorted(runs) == ["a", "a", "b"]
        assert flights.snapshot()["flying"] == 0
    stop()
    assert sorted(heard) == ["flight.joined embedding"] * 2 + ["flight.started embedding"] * 3


async def test_a_leaders_cancellation_does_not_kill_its_followers() -> None:
    runs = 0

    async def work() -> str:
        nonlocal runs
        runs += 1
        await anyio.sleep(10)
        return "done"

    results: list[str] = []
    async with SingleFlight() as flights, anyio.create_task_group() as group:
        leader = anyio.CancelScope()

        async def lead() -> None:
            with leader:
                await flights.call("k", work)

        async def follow() -> None:
            results.append(await flights.call("k", work))

        group.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(follow)
        group.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        leader.cancel()
    assert (runs, results) == (1, ["done", "done"])


async def test_a_flight_is_not_bound_by_its_starters_deadline_nor_by_its_context() -> None:
    seen: list[object] = []
    tenant: ContextVar[str | None] = ContextVar("tenant", default=None)

    async def work() -> str:
        seen.extend((Deadline.current(), tenant.get()))
        await anyio.sleep(10)
        return "done"

    results: list[str] = []
    async with SingleFlight() as flights, anyio.create_task_group() as group:

        async def lead() -> None:
            tenant.set("leader")
            with pytest.raises(DeadlineExceeded), deadline(1):
                await flights.call("k", work)

        async def follow() -> None:
            with deadline(50):
                results.append(await flights.call("k", work))

        group.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(follow)
    assert results == ["done"]
    assert seen == [None, None]


async def test_when_the_last_waiter_leaves_the_flight_ends_and_nobody_joins_it() -> None:
    ended = 0
    runs = 0
    heard: list[str] = []

    async def work() -> None:
        nonlocal runs, ended
        runs += 1
        try:
            await anyio.sleep_forever()
        finally:
            ended += 1

    stop = events.subscribe(lambda event: heard.append(f"{event.name} {event.source}"))
    async with SingleFlight(name="f") as flights:
        for expected in (1, 2):
            with anyio.move_on_after(1):
                await flights.call("k", work)
            assert flights.snapshot()["flying"] == 0
            assert runs == expected
        await anyio.wait_all_tasks_blocked()
        assert ended == 2
    stop()
    assert heard == ["flight.started f", "flight.abandoned f"] * 2


async def test_one_of_two_waiters_leaving_ends_nothing() -> None:
    async def work() -> str:
        await anyio.sleep(10)
        return "done"

    results: list[str] = []
    async with SingleFlight() as flights, anyio.create_task_group() as group:

        async def stay() -> None:
            results.append(await flights.call("k", work))

        group.start_soon(stay)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(1):
            await flights.call("k", work)
        assert flights.snapshot()["flying"] == 1
    assert results == ["done"]


async def test_an_error_is_delivered_to_each_as_its_own_and_kept_for_nobody() -> None:
    flaky = Flaky(OSError("once"))
    errors: list[OSError] = []
    async with SingleFlight() as flights:

        async def one() -> None:
            with pytest.raises(OSError, match="once") as caught:
                await flights.call("k", flaky)
            errors.append(caught.value)

        async with anyio.create_task_group() as group:
            group.start_soon(one)
            group.start_soon(one)
        assert flaky.calls == 1
        assert errors[0] is not errors[1]
        assert isinstance(errors[0].__cause__, OSError)
        assert errors[0].__traceback__ is not errors[1].__traceback__
        assert await flights.call("k", flaky) == "ok"


async def test_work_that_would_wait_for_itself_is_refused_instead_of_hanging() -> None:
    async with SingleFlight() as flights, SingleFlight() as others:

        async def recursive() -> None:
            await others.call("k", lambda: flights.call("k", recursive))

        with pytest.raises(RuntimeError, match="would wait for itself"):
            await flights.call("k", recursive)

        async def nested() -> str:
            return await flights.call("another", Flaky())

        assert await flights.call("k", nested) == "ok"


async def test_work_that_is_cancelled_from_outside_is_a_timeout_to_its_waiters() -> None:
    async def work() -> None:
        await anyio.sleep_forever()

    flights = SingleFlight()
    await flights.start()
    async with anyio.create_task_group() as group:

        async def one() -> None:
            with pytest.raises(TimeoutError, match="was cancelled"):
                await flights.call("k", work)

        group.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        await flights.aclose()


async def test_it_is_open_or_says_so() -> None:
    with pytest.raises(NotOpen):
        await SingleFlight().call("k", anyio.lowlevel.checkpoint)


def test_an_error_that_cannot_be_copied_is_handed_on_itself() -> None:
    class Stubborn(Exception):
        def __reduce__(self) -> str:
            raise TypeError("no copies")

    error = Stubborn("x")
    assert own_copy(error) is error
    plain = OSError("x")
    copied = own_copy(plain)
    assert copied is not plain
    assert copied.__cause__ is plain
    caused = OSError("x")
    caused.__cause__ = ValueError("why")
    assert isinstance(own_copy(caused).__cause__, ValueError)


async def test_a_flight_that_could_not_start_is_joined_by_nobody() -> None:
    flights = SingleFlight()
    await flights.start()
    assert flights._owner is not None
    await flights._owner.stop()
    for _ in range(3):
        with pytest.raises(NotOpen), anyio.fail_after(1):
            await flights.call("k", Flaky())
    assert flights.snapshot()["flying"] == 0
    await flights.aclose()

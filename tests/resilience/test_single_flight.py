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


async def test_concurrent_calls_share_work_only_with_the_same_key() -> None:
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


async def test_a_leaders_cancellation_does_not_affect_its_followers() -> None:
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


async def test_a_flight_inherits_neither_the_deadline_nor_the_context_of_its_leader() -> None:
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


async def test_when_the_last_waiter_leaves_the_flight_ends_and_can_not_be_joined() -> None:
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


async def test_a_flight_continues_when_one_of_two_waiters_leaves() -> None:
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


async def test_each_waiter_gets_its_own_copy_of_an_error_and_it_is_not_cached() -> None:
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


async def test_work_cancelled_from_outside_raises_timeout_error_in_its_waiters() -> None:
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


async def test_a_call_outside_async_with_raises_not_open() -> None:
    with pytest.raises(NotOpen):
        await SingleFlight().call("k", anyio.lowlevel.checkpoint)


def test_an_error_that_cannot_be_copied_is_raised_itself() -> None:
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


async def test_a_flight_that_could_not_start_can_not_be_joined() -> None:
    flights = SingleFlight()
    await flights.start()
    assert flights._owner is not None
    await flights._owner.stop()
    for _ in range(3):
        with pytest.raises(NotOpen), anyio.fail_after(1):
            await flights.call("k", Flaky())
    assert flights.snapshot()["flying"] == 0
    await flights.aclose()

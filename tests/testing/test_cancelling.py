"""cancel_everywhere finds each kind of leak and each swallowed cancellation."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from ragcore.lifecycle.owner import Owner
from ragcore.resilience import Bulkhead, CircuitBreaker, Policy, SingleFlight
from ragcore.testing import VirtualLoop, at_rest, cancel_everywhere

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    if request.param == "trio":
        import trio.testing

        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": VirtualLoop}


async def finds(fn: Callable[[], Awaitable[object]], message: str, check: Callable[[], object] | None = None) -> None:
    with pytest.raises(AssertionError, match=message):
        await cancel_everywhere(fn, check=check)


async def test_every_await_is_counted_and_cancelled() -> None:
    reached: list[int] = []

    async def run() -> None:
        for number in range(4):
            await anyio.lowlevel.checkpoint()
            reached.append(number)

    assert await cancel_everywhere(run) == 4
    assert {reached.count(0), reached.count(3)} in ({4, 1}, {10, 1})  # one way on trio, three on asyncio
    assert await cancel_everywhere(_nothing) == 0


async def _nothing() -> None:
    """Has no await."""


async def test_a_permit_that_is_not_released_is_found() -> None:
    bulkhead = Bulkhead(99)

    async def leaky() -> None:
        await bulkhead.acquire()
        await anyio.sleep(1)
        bulkhead.release()

    await finds(leaky, "cancelled at await 1 of 1 by scope: Bulkhead is not at rest: inside=1", at_rest(bulkhead))


async def test_a_lost_probe_is_found() -> None:
    breaker = CircuitBreaker(minimum_throughput=1, break_duration=1, max_break_duration=1, probes=99)

    async def leaky() -> None:
        breaker.reset()
        breaker.acquire().failure()
        await anyio.sleep(2)
        permit = breaker.acquire()
        await anyio.sleep(1)
        permit.success()

    await finds(leaky, "await 2 of 2 by scope: CircuitBreaker is not at rest: probes_out=1", at_rest(breaker))


async def test_a_lost_queue_place_is_found() -> None:
    class Leaky(Bulkhead):
        async def acquire(self, when: float = float("inf"), *, flow: str | None = None) -> None:
            try:
                await super().acquire(when)
            except BaseException:
                self.line.waiting += 1
                raise

    bulkhead = Leaky(1, queue=99)
    assert bulkhead.try_acquire()

    async def wait() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(_release, bulkhead)
            await bulkhead.acquire()

    await finds(wait, "left behind after a run cancelled at await 1", lambda: bulkhead.waiting == 0)


async def _release(bulkhead: Bulkhead) -> None:
    await anyio.sleep(1)
    bulkhead.release()


async def test_a_context_variable_that_is_not_reset_is_found() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("leaked", default=0)

    async def leaky() -> None:
        token = variable.set(1)
        await anyio.sleep(1)
        variable.reset(token)

    await finds(leaky, "context variables differ after a run cancelled at await 1 of 1 by scope: leaked")


async def test_a_task_that_is_not_ended_is_found() -> None:
    owner = Owner("careless")
    await owner.start()

    async def leaky() -> None:
        scope = anyio.CancelScope()

        async def work() -> None:
            with scope:
                await anyio.sleep_forever()

        owner.spawn(work, name="work")
        await anyio.sleep(1)
        scope.cancel()

    await finds(leaky, "tasks are left after a run cancelled at await 1 of 1 by scope: .*careless: work")
    await owner.stop()


async def test_a_flight_without_callers_is_found() -> None:
    async with SingleFlight() as flights:

        async def leaky() -> None:
            with suppress(TimeoutError):
                flights._flights["k"] = None  # type: ignore[assignment]
                await anyio.sleep(1)
                del flights._flights["k"]

        await finds(leaky, "SingleFlight is not at rest: flying=1", at_rest(flights))


async def test_a_swallowed_cancellation_is_found() -> None:
    async def returns() -> str:
        try:
            await anyio.sleep(1)
        except anyio.get_cancelled_exc_class():
            return "as if nothing had happened"
        return "done"

    await finds(returns, "swallowed the cancellation: it returned 'as if nothing had happened'")

    async def raises() -> None:
        try:
            await anyio.sleep(1)
        except anyio.get_cancelled_exc_class():
            raise OSError("another story") from None

    await finds(raises, "swallowed the cancellation: it raised OSError")


async def test_a_leak_that_only_task_cancel_reveals_is_found(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")
    bulkhead = Bulkhead(99)

    async def leaky() -> None:
        await bulkhead.acquire()
        try:
            await anyio.sleep(1)
        finally:
            with anyio.CancelScope(shield=True):  # Task.cancel() ends even a shielded wait
                await asyncio.sleep(0)
            bulkhead.release()

    await finds(leaky, "cancelled at await 2 of 2 by task cancel: Bulkhead is not at rest", at_rest(bulkhead))


async def test_an_endless_run_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragcore.testing.cancelling.MOST_CHECKPOINTS", 50)

    async def endless() -> None:
        while True:
            await anyio.lowlevel.checkpoint()

    await finds(endless, "more than 50 awaits")


async def test_a_check_may_return_false_and_an_error_of_the_run_is_raised() -> None:
    await finds(anyio.lowlevel.checkpoint, "something is left behind after a whole run$", lambda: False)
    assert await cancel_everywhere(anyio.lowlevel.checkpoint, check=lambda: None) == 1

    async def broken() -> None:
        await anyio.lowlevel.checkpoint()
        raise KeyError("the run's own")

    with pytest.raises(KeyError):
        await cancel_everywhere(broken)


async def test_values_nested_in_a_snapshot_are_checked() -> None:
    policy = Policy("crm")
    at_rest(policy)()
    assert policy.bulkhead is not None
    policy.bulkhead.try_acquire()
    with pytest.raises(AssertionError, match=r"Policy is not at rest: bulkhead\.inside=1"):
        at_rest(policy)()

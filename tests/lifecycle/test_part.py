"""Components that are started and closed."""

from __future__ import annotations

import asyncio
import os

import anyio
import anyio.lowlevel
import pytest

from ragcore import NotOpen, WrongEventLoop
from ragcore.lifecycle.owner import CLEAN_UP, CLOSE_SECONDS
from ragcore.lifecycle.part import Part, Parts

pytestmark = pytest.mark.anyio


class Traced(Part):
    """Records its starts and closes."""

    def __init__(self, trace: list[str], name: str = "part", *, opening: float = 0.0, closing: float = 0.0) -> None:
        self.trace = trace
        self.name = name
        self.opening = opening
        self.closing = closing

    async def _open(self) -> None:
        await anyio.sleep(self.opening)
        self.trace.append(f"open {self.name}")

    async def _close(self) -> None:
        await anyio.sleep(self.closing)
        self.trace.append(f"close {self.name}")


async def test_start_and_close_are_idempotent_and_calls_need_an_open_part() -> None:
    trace: list[str] = []
    part = Traced(trace)
    with pytest.raises(NotOpen, match="Traced is not open: use `async with`"):
        part._check_open()
    await part.aclose()
    await part.start()
    await part.start()
    assert part.is_open
    assert part._check_open() is part._owner
    await part.aclose()
    await part.aclose()
    assert not part.is_open
    with pytest.raises(NotOpen):
        part._check_open()
    assert trace == ["open part", "close part"]


async def test_a_closed_part_may_be_opened_again() -> None:
    part = Part()
    for _ in range(2):
        async with part as entered:
            assert entered is part
            assert part.is_open


async def test_two_starts_at_once_return_when_it_is_open() -> None:
    trace: list[str] = []
    part = Traced(trace, opening=3)
    async with anyio.create_task_group() as group:
        group.start_soon(part.start)
        await anyio.wait_all_tasks_blocked()
        assert not part.is_open
        await part.start()
        assert trace == ["open part"]
    await part.aclose()


async def test_a_start_that_fails_closes_what_it_opened() -> None:
    inner = Part()

    class Broken(Part):
        parts = Parts()

        async def _open(self) -> None:
            await self.parts.start(inner)
            raise OSError("no")

        async def _close(self) -> None:
            await self.parts.aclose()

    part = Broken()
    with pytest.raises(OSError):
        await part.start()
    assert not inner.is_open
    assert not part.is_open
    assert part._owner is None


async def test_a_start_that_is_cancelled_closes_what_it_opened() -> None:
    trace: list[str] = []
    part = Traced(trace, opening=10, closing=1)
    with anyio.move_on_after(1):
        await part.start()
    assert not part.is_open
    assert trace == ["close part"]
    part.opening = 0
    await part.start()
    assert part.is_open
    await part.aclose()


async def test_a_task_that_waits_for_a_failed_start_gets_not_open() -> None:
    class Broken(Part):
        async def _open(self) -> None:
            await anyio.sleep(1)
            raise OSError("no")

    part = Broken()
    async with anyio.create_task_group() as group:

        async def second() -> None:
            with pytest.raises(NotOpen):
                await part.start()

        async def first() -> None:
            with pytest.raises(OSError):
                await part.start()

        group.start_soon(first)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(second)


async def test_calls_during_start_or_close_are_refused() -> None:
    part = Part()
    await part.start()
    part._owner, owner = None, part._owner
    with pytest.raises(NotOpen, match="is being started or closed"):
        part._check_open()
    part._owner = owner
    await part.aclose()


def test_another_event_loop_is_refused() -> None:
    part = Part()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(part.start())

    async def misuse() -> None:
        with pytest.raises(WrongEventLoop, match="started on another event loop"):
            part._check_open()
        with pytest.raises(WrongEventLoop):
            await part.start()
        with pytest.raises(WrongEventLoop):
            await part.aclose()

    anyio.run(misuse)
    loop.run_until_complete(part.aclose())
    loop.close()


async def test_a_forked_child_can_not_use_the_part_and_closes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part()
    await part.start()
    own = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: own + 1)
        assert not part.is_open
        with pytest.raises(NotOpen, match=f"started in process {own} and can't be used in its forked child {own + 1}"):
            part._check_open()
        with pytest.raises(NotOpen):
            await part.start()
        await part.aclose()
    assert part.is_open
    await part.aclose()


async def test_parts_closes_only_started_parts_in_reverse_order() -> None:
    trace: list[str] = []
    shared = Traced(trace, "shared")
    await shared.start()
    parts = Parts()
    for part in (Traced(trace, "a"), shared, object(), Traced(trace, "b")):
        await parts.start(part)
    await parts.aclose()
    await parts.aclose()
    assert trace == ["open shared", "open a", "open b", "close b", "close a"]
    assert shared.is_open
    await shared.aclose()


async def test_a_part_that_does_not_close_is_logged_and_the_rest_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    trace: list[str] = []

    class Broken(Traced):
        async def _close(self) -> None:
            raise OSError("stuck")

    class OnlyStarts:
        async def start(self) -> None:
            trace.append("started")

    parts = Parts()
    for part in (
        Traced(trace, "a"),
        Broken(trace, "broken"),
        OnlyStarts(),
        Traced(trace, "slow to close", closing=60),
        Traced(trace, "b"),
    ):
        await parts.start(part)
    began = anyio.current_time()
    await parts.aclose()
    assert anyio.current_time() == pytest.approx(began + CLOSE_SECONDS)
    assert trace[-2:] == ["close b", "close a"]
    assert "closing Traced did not end within 5 s" in caplog.text
    assert "closing Broken failed" in caplog.text


async def test_a_task_cancel_during_close_is_raised_after_the_other_parts_are_closed(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")
    trace: list[str] = []
    parts = Parts()
    for name in ("a", "b"):
        await parts.start(Traced(trace, name, closing=1))
    task = asyncio.ensure_future(parts.aclose())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert trace[-1] == "close a"


async def test_close_continues_while_its_caller_is_being_cancelled() -> None:
    trace: list[str] = []
    part, parts = Traced(trace, "own"), Parts()
    await parts.start(Traced(trace, "a", closing=1))
    await part.start()
    assert part._owner is not None

    async def slow_to_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)

    part._owner.spawn(slow_to_end, name="work")
    await anyio.wait_all_tasks_blocked()
    began = anyio.current_time()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await parts.aclose()
    assert trace == ["open a", "open own", "close a"]
    assert anyio.current_time() == pytest.approx(began + 1)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await part.aclose()
    assert not part.is_open
    assert anyio.current_time() == pytest.approx(began + 2)


async def test_the_close_after_a_failed_start_has_a_time_limit() -> None:
    part = Traced([], opening=10, closing=600)
    began = anyio.current_time()
    with anyio.move_on_after(1):
        await part.start()
    assert anyio.current_time() == pytest.approx(began + 1 + CLOSE_SECONDS)
    assert not part.is_open


async def test_the_owner_is_named_after_its_component() -> None:
    async with Traced([]) as part:
        assert part._owner is not None
        assert part._owner.name == "Traced"


async def test_a_close_during_a_start_waits_for_the_start() -> None:
    trace: list[str] = []
    part = Traced(trace, opening=2, closing=1)
    async with anyio.create_task_group() as group:
        group.start_soon(part.start)
        await anyio.wait_all_tasks_blocked()
        await part.aclose()
        assert trace == ["open part", "close part"]
    assert not part.is_open
    assert part._owner is None


async def test_two_concurrent_closes_and_a_start_meanwhile_end_with_an_open_part() -> None:
    trace: list[str] = []
    part = Traced(trace, closing=2)
    await part.start()
    async with anyio.create_task_group() as group:
        group.start_soon(part.aclose)
        group.start_soon(part.aclose)
        await anyio.wait_all_tasks_blocked()
        assert not part.is_open
        await part.start()
    assert part.is_open
    assert trace == ["open part", "close part", "open part"]
    await part.aclose()
    assert part._owner is None


async def test_a_start_whose_clean_up_also_fails_leaves_the_part_not_open() -> None:
    class Hopeless(Part):
        async def _open(self) -> None:
            raise OSError("opening")

        async def _close(self) -> None:
            raise ValueError("closing")

    part = Hopeless()
    for _ in range(2):
        with pytest.raises(OSError, match="opening"):
            await part.start()
        assert not part.is_open
        assert part._owner is None


async def test_a_task_that_waits_for_a_failed_start_gets_not_open_even_if_it_is_retried_at_once() -> None:
    class Second(Part):
        tries = 0

        async def _open(self) -> None:
            self.tries += 1
            await anyio.sleep(1)
            if self.tries == 1:
                raise OSError("at first")

    part = Second()

    async def first() -> None:
        with pytest.raises(OSError):
            await part.start()
        await part.start()

    async def other() -> None:
        with pytest.raises(NotOpen, match="Second is not open: another task failed to start it"):
            await part.start()

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(other)
    assert part.is_open
    await part.aclose()


async def test_if_two_owners_start_a_part_together_only_one_owns_it() -> None:
    trace: list[str] = []
    shared = Traced(trace, "shared", opening=1)
    one, two = Parts(), Parts()
    async with anyio.create_task_group() as group:
        group.start_soon(one.start, shared)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(two.start, shared)
    await two.aclose()
    assert shared.is_open
    await one.aclose()
    assert not shared.is_open
    assert trace == ["open shared", "close shared"]


class Stubborn:
    """Ignores its cancellation while it closes."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def start(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(self.seconds)


async def test_a_part_that_shields_its_close_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    trace: list[str] = []
    parts = Parts()
    for part in (Traced(trace, "a"), Stubborn(20.0), Traced(trace, "b")):
        await parts.start(part)
    began = anyio.current_time()
    await parts.aclose()
    assert anyio.current_time() - began == pytest.approx(CLOSE_SECONDS + 2 * CLEAN_UP)
    assert trace[-2:] == ["close b", "close a"]
    assert "closing Stubborn ignores its cancellation and was left behind" in caplog.text
    await anyio.sleep(30)


async def test_a_failed_close_does_not_hide_the_error_of_the_block() -> None:
    class Broken(Stubborn):
        async def aclose(self) -> None:
            raise OSError("closing failed")

    class Whole(Part):
        def __init__(self) -> None:
            self.parts = Parts()

        async def _open(self) -> None:
            await self.parts.start(Broken(0))

        async def _close(self) -> None:
            await self.parts.aclose()

    with pytest.raises(KeyError, match="in flight"):
        async with Whole():
            raise KeyError("in flight")

"""The event loop's clock."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from ragcore.resilience.clock import clock, now_if_any, running

pytestmark = pytest.mark.anyio


async def test_the_clock_is_the_event_loops() -> None:
    now = clock()
    assert now() == anyio.current_time()
    await anyio.sleep(3600)
    assert now() == anyio.current_time()


async def test_the_task_is_that_of_asyncio_or_none(anyio_backend_name: str) -> None:
    assert running()[0] is (None if anyio_backend_name == "trio" else asyncio.current_task())


def test_a_callback_of_asyncio_has_the_same_time() -> None:
    seen: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: seen.extend((clock()() - loop.time(), 0 if running()[0] is None else 1)))
        await asyncio.sleep(0.001)

    asyncio.run(main())
    assert abs(seen[0]) < 1
    assert seen[1] == 0


def test_trio_as_a_guest_of_asyncio_uses_its_own_clock() -> None:
    import trio

    times: list[tuple[float, float]] = []

    async def guest() -> None:
        times.append((clock()(), trio.current_time()))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=lambda _: done.set_result(None)
        )
        await done

    asyncio.run(main())
    ours, trios = times[0]
    assert abs(ours - trios) < 1


def test_outside_an_event_loop_there_is_no_time() -> None:
    assert now_if_any() is None

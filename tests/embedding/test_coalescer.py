"""Questions that share a request, and what becomes of them when nobody sends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import anyio
import numpy as np
import pytest

from ragcore import EmbeddingError, NotOpen, Vector
from ragcore.embedding.coalescer import MOST_REQUESTS, Coalescer
from ragcore.resilience.owner import Owner

pytestmark = pytest.mark.anyio


async def embed(coalescer: Coalescer, owner: Owner, text: str, outcomes: list[str]) -> None:
    try:
        await coalescer.embed(owner, text)
        outcomes.append("vector")
    except (EmbeddingError, NotOpen) as error:
        outcomes.append(type(error).__name__)


async def together(
    send: Callable[[Sequence[str]], Awaitable[Vector]], count: int, end: Callable[[Coalescer, Owner], Awaitable[None]]
) -> list[str]:
    """What became of so many texts that wait together when `end` has happened, and of one that comes after it."""
    owner = Owner("test")
    await owner.start()
    coalescer = Coalescer(send)
    outcomes: list[str] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(embed, coalescer, owner, f"text {number}", outcomes)
                await anyio.sleep(0.01)
            await end(coalescer, owner)
        await embed(coalescer, owner, "later", outcomes)
    await owner.stop()
    return outcomes


async def test_when_every_request_was_cancelled_by_a_stray_those_who_wait_are_told_and_the_next_goes_out(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")
    strays: list[asyncio.Future[None]] = []

    async def send(texts: Sequence[str]) -> Vector:
        if len(strays) < MOST_REQUESTS:
            strays.append(asyncio.get_running_loop().create_future())
            await strays[-1]
        return np.ones((len(texts), 2), np.float32)

    async def end(coalescer: Coalescer, owner: Owner) -> None:
        for stray in strays:
            stray.cancel()

    outcomes = await together(send, MOST_REQUESTS + 1, end)
    assert outcomes == ["EmbeddingError"] * (MOST_REQUESTS + 1) + ["vector"]


async def test_closing_tells_those_who_wait() -> None:
    async def send(texts: Sequence[str]) -> Vector:
        await anyio.sleep_forever()
        raise AssertionError

    async def end(coalescer: Coalescer, owner: Owner) -> None:
        coalescer.close()
        await owner.stop()

    outcomes = await together(send, MOST_REQUESTS + 2, end)
    assert outcomes == ["EmbeddingError"] * (MOST_REQUESTS + 2) + ["NotOpen"]

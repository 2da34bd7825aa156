"""Broken services. Each benchmark must fail with them; this shows that the benchmark detects the defect.

`hangs` is the threaded design: each question has a thread that joins another thread for its embedding, and all of them share a lock. Four questions at
once are answered; five wait for each other forever.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from tests.support.child import Child

from benchmarks.targets.options import Broken
from benchmarks.targets.served import serve, served
from ragcore.loadtest.http import HttpOptions
from ragcore.loadtest.target import Question

__all__ = ["QUESTIONS", "broken"]

QUESTIONS = [Question("What is my deductible?", ("$1,500",))]
RIGHT = "Your deductible is $1,500 per calendar year."
WRONG = "Your deductible is $500 per calendar year."
APOLOGY = "I am sorry, an error occurred. Please try again."
SHARED = 5
MEGABYTE = 1 << 20


@asynccontextmanager
async def broken(how: Broken) -> AsyncIterator[tuple[HttpOptions, Child]]:
    """Start a broken service. Yields the options to ask it, and its process."""
    async with served("benchmarks.targets.broken", how) as (url, process):
        yield HttpOptions(url=f"{url}/chat"), process


class _Threaded:
    """Threads that wait for other threads. All of them share one lock."""

    def __init__(self) -> None:
        self._shared = threading.BoundedSemaphore(SHARED)

    async def __call__(self) -> str:
        loop = asyncio.get_running_loop()
        answered = loop.create_future()
        threading.Thread(target=self._question, args=(loop, answered), daemon=True).start()
        await answered
        return RIGHT

    def _question(self, loop: asyncio.AbstractEventLoop, answered: asyncio.Future[None]) -> None:
        with self._shared:
            time.sleep(0.1)
            embedding = threading.Thread(target=self._embed, daemon=True)
            embedding.start()
            embedding.join()
        loop.call_soon_threadsafe(self._answered, answered)

    @staticmethod
    def _answered(answered: asyncio.Future[None]) -> None:
        if not answered.done():
            answered.set_result(None)

    def _embed(self) -> None:
        with self._shared:
            time.sleep(0.02)


async def _wrong(number: int) -> str:
    await anyio.sleep(0.02)
    return WRONG if number * 6 % 100 < 6 else RIGHT


async def _leaks(kept: list[bytes]) -> str:
    await anyio.sleep(0.02)
    kept.append(b"x" * MEGABYTE)
    return RIGHT


async def _apologises() -> str:
    return APOLOGY


def _app(how: Broken) -> Any:
    threaded, kept = _Threaded(), list[bytes]()
    numbers = itertools.count()
    answers: dict[Broken, Callable[[], Awaitable[str]]] = {
        "hangs": threaded,
        "wrong": lambda: _wrong(next(numbers)),
        "leaks": lambda: _leaks(kept),
        "apologises": _apologises,
    }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        if how == "drips":
            await _drip(send)
            return
        body = json.dumps({"answer": await answers[how]()}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    return app


async def _drip(send: Any) -> None:
    """Send one byte at a time with pauses, so that no single read takes long."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    while True:
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await anyio.sleep(0.5)


if __name__ == "__main__":
    anyio.run(serve, _app(json.loads(sys.argv[1])))

"""A greedy tenant of `ragcore serve`, in its own process: it requests reports without a pause, or sends bodies that never end.

`python -m tests.support.hog OPTIONS` reads its next task from each line, and answers "stop" with the outcomes.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import anyio
import anyio.abc

from ragcore.contrib.asgi.body import MAX_BODY
from ragcore.loadtest.driving.driver import Driver
from ragcore.loadtest.driving.outcome import Outcome
from ragcore.loadtest.http import HttpOptions, http_target
from ragcore.loadtest.target import Question
from tests.support.bench import QUESTION
from tests.support.child import Child, child, obey

__all__ = ["BODIES", "HOG", "REPORTS", "Hog", "hog"]

HOG = "hog"
REPORTS, BODIES = 40, 400
# Seconds between two bytes of a slow body.
DRIP = 1.0
# A full body is sent in pieces of this many bytes, with this many seconds between two pieces. So all bodies together use a gigabit a second.
PIECE = 65_536
BETWEEN_PIECES = BODIES * PIECE / 125e6
# After the server has closed a connection, the next one is opened after this many seconds.
AGAIN = 0.05


class Hog:
    """The driver's connection to the tenant's process."""

    def __init__(self, process: Child) -> None:
        self._process = process

    @asynccontextmanager
    async def busy(self, how: str, came: Counter[str]) -> AsyncIterator[None]:
        """Keep the server busy during a block.

        Args:
            how: "similarity": 40 concurrent requests for a report, each followed by the next; "bodies": 400 bodies of one byte a second; "full_bodies":
                400 bodies of the largest size without their last byte; "alone": nothing.
            came: receives the outcomes at the end: answers by status, "closed" connections, and connections that were "open" at the end.
        """
        if how == "alone":
            yield
            return
        await self._process.tell(how)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._process.tell("stop")
                came.update(await self._process.hear())


@asynccontextmanager
async def hog(url: str, token: str) -> AsyncIterator[Hog]:
    """Start the tenant with this token for a block."""
    async with child("tests.support.hog", {"url": url, "token": token}) as process:
        yield Hog(process)


class _Reports:
    """40 users. Each requests a report, and requests the next one as soon as an answer has arrived."""

    def __init__(self, url: str, token: str) -> None:
        self._options = HttpOptions(
            url=f"{url}/debug/rag-similarity/{HOG}", body='{"query": "{question}"}', token=token, answer_path="verdict"
        )
        self.came = Counter[str]()

    async def run(self) -> None:
        async with http_target(self._options) as target:
            driver = Driver(target, [Question(QUESTION)], on_outcome=self._count)
            await driver.users(REPORTS, seconds=math.inf, phase="")

    def _count(self, outcome: Outcome) -> None:
        self.came["200" if outcome.ok else str(outcome.status or outcome.kind)] += 1


class _Bodies:
    """400 connections, each of which sends a body. If the server closes one, another is opened. Like a bad client, it ignores answers and continues to send."""

    def __init__(self, url: str, token: str, *, full: bool) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        self._head = (
            f"POST /chat HTTP/1.1\r\nhost: {address.netloc}\r\nauthorization: Bearer {token}\r\n"
            f"content-type: application/json\r\ncontent-length: {MAX_BODY}\r\n\r\n"
        ).encode()
        self._full = full
        self.came = Counter[str]()

    async def run(self) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(BODIES):
                group.start_soon(self._one_after_the_other)

    async def _one_after_the_other(self) -> None:
        while True:
            with suppress(OSError):
                async with await anyio.connect_tcp(self._host, self._port) as stream:
                    self.came["open"] += 1
                    async with anyio.create_task_group() as group:
                        group.start_soon(self._send, stream)
                        await self._read(stream)
                        group.cancel_scope.cancel()
                    self.came.update(open=-1, closed=1)
            await anyio.sleep(AGAIN)

    async def _send(self, stream: anyio.abc.SocketStream) -> None:
        with suppress(anyio.BrokenResourceError):
            await stream.send(self._head)
            for size in _full_body() if self._full else itertools.repeat(1):
                await stream.send(b" " * size)
                await anyio.sleep(BETWEEN_PIECES if self._full else DRIP)

    async def _read(self, stream: anyio.abc.SocketStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            while received := await stream.receive():
                if received.startswith(b"HTTP/1.1 "):
                    self.came[received[9:12].decode()] += 1


def _full_body() -> Iterator[int]:
    """Yield the sizes of a body's pieces, without the body's last byte."""
    for begin in range(0, MAX_BODY, PIECE):
        yield min(PIECE, MAX_BODY - 1 - begin)


async def _main(options: Mapping[str, str]) -> None:
    url, token = options["url"], options["token"]
    print(json.dumps({}), flush=True)
    async with anyio.create_task_group() as group:
        scope = anyio.CancelScope()
        running: _Reports | _Bodies = _Reports(url, token)
        ended = anyio.Event()
        async for (word,) in obey():
            if word == "stop":
                came = dict(running.came)
                scope.cancel()
                await ended.wait()
                print(json.dumps(came), flush=True)
                continue
            running = _Reports(url, token) if word == "similarity" else _Bodies(url, token, full=word == "full_bodies")
            scope, ended = anyio.CancelScope(), anyio.Event()
            group.start_soon(_until_cancelled, running.run, scope, ended)
        group.cancel_scope.cancel()


async def _until_cancelled(run: Callable[[], Awaitable[None]], scope: anyio.CancelScope, ended: anyio.Event) -> None:
    with scope:
        await run()
    ended.set()


if __name__ == "__main__":
    anyio.run(_main, json.loads(sys.argv[1]))

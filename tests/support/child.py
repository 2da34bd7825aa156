"""A Python module run as a process of its own, for as long as a block."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

__all__ = ["Child", "child", "end", "obey"]

START_SECONDS = 120.0
STOP_SECONDS = 15.0
MOST_LINE = 1_000_000


class Child:
    """A running child.

    Attributes:
        said: the JSON object of its first line.
    """

    def __init__(self, process: anyio.abc.Process, lines: BufferedByteReceiveStream, said: Mapping[str, Any]) -> None:
        self._process = process
        self._lines = lines
        self.said = said
        self.pid = process.pid

    async def tell(self, *words: str) -> None:
        """Send it a line."""
        assert self._process.stdin is not None
        await self._process.stdin.send((json.dumps(words) + "\n").encode())

    async def hear(self) -> Mapping[str, Any]:
        """The JSON object of its next line."""
        return await _line(self._lines)


@asynccontextmanager
async def child(module: str, options: Mapping[str, Any], *, python: str = sys.executable) -> AsyncIterator[Child]:
    """Start `python -m module JSON`, wait for its first line, and end it after the block: by closing its stdin, by force if need be.

    Raises:
        RuntimeError: it ended before it said anything.
        TimeoutError: it didn't say anything within two minutes.
    """
    command = [python, "-m", module, json.dumps(options)]
    process = await anyio.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None)
    assert process.stdout is not None
    lines = BufferedByteReceiveStream(process.stdout)
    try:
        yield Child(process, lines, await _first_line(lines, module))
    finally:
        await end(process)


async def end(process: anyio.abc.Process) -> None:
    """End a process that obeys its stdin: by closing that, by force if need be."""
    with anyio.move_on_after(STOP_SECONDS, shield=True) as scope:
        if process.stdin is not None:
            await process.stdin.aclose()
        await process.wait()
    if scope.cancelled_caught:
        process.kill()
    with anyio.CancelScope(shield=True):
        await process.aclose()


async def _first_line(lines: BufferedByteReceiveStream, module: str) -> Mapping[str, Any]:
    try:
        with anyio.fail_after(START_SECONDS):
            return await _line(lines)
    except anyio.IncompleteRead:
        raise RuntimeError(f"{module} ended before it had started: what it said is above") from None


async def _line(lines: BufferedByteReceiveStream) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(await lines.receive_until(b"\n", MOST_LINE))
    return found


async def obey() -> AsyncIterator[list[str]]:
    """In the child: what it is told, line by line, until the process that started it is gone."""
    # A pipe that nobody holds any more is at its end.
    while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        yield json.loads(line)

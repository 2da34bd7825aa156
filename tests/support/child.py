"""Runs a Python module in a child process for a block."""

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
        said: the JSON object on the first line that the child wrote.
    """

    def __init__(self, process: anyio.abc.Process, lines: BufferedByteReceiveStream, said: Mapping[str, Any]) -> None:
        self._process = process
        self._lines = lines
        self.said = said
        self.pid = process.pid

    async def tell(self, *words: str) -> None:
        """Send a line to the child."""
        assert self._process.stdin is not None
        await self._process.stdin.send((json.dumps(words) + "\n").encode())

    async def hear(self) -> Mapping[str, Any]:
        """Return the JSON object on the child's next line."""
        return await _line(self._lines)


@asynccontextmanager
async def child(module: str, options: Mapping[str, Any], *, python: str = sys.executable) -> AsyncIterator[Child]:
    """Start `python -m module JSON` and wait for its first line. After the block, close its stdin, and kill it if it does not end.

    Raises:
        RuntimeError: the child ended before its first line.
        TimeoutError: the child did not write a line within two minutes.
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
    """End a process that reads commands from stdin: close its stdin, and kill it if it does not end."""
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
        raise RuntimeError(f"{module} ended before it had started: see its output above") from None


async def _line(lines: BufferedByteReceiveStream) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(await lines.receive_until(b"\n", MOST_LINE))
    return found


async def obey() -> AsyncIterator[list[str]]:
    """Yield the lines from the parent process until that process has ended. Runs in the child."""
    # When the parent ends, its end of the pipe closes and stdin ends.
    while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        yield json.loads(line)

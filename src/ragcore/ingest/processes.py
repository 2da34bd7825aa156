"""Worker processes that read files. Where processes are not allowed, threads read them.

A parser may never return, use all memory, hold the interpreter lock or crash. In its own process it can harm only one file: the process is killed, and a new
one is started. The processes run a module of ragcore, so they never import the user's main module.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.abc
import anyio.lowlevel

from ragcore.ingest.worker import Answer, answers
from ragcore.resilience.threads import Threads

__all__ = ["Broke", "Worker", "start_worker"]

logger: logging.Logger = logging.getLogger("ragcore.ingest")

# Memory limit for reading one file, in MiB.
MEMORY_MB = 2_048
MOST_MESSAGE = 512 * 1024 * 1024
KILL_SECONDS = 1.0


class Broke(Exception):
    """The worker ended in the middle of a file: it crashed, or the system killed it because of its memory use."""


class Worker(Protocol):
    """Reads one file after another. `ask` starts a file, `answer` returns its next result, and `stop` ends the worker even while it reads."""

    note: str
    """A warning about this worker for the user; "" for none."""

    async def ask(self, path: Path, *, lines: bool, whole_pages: bool) -> None:
        """Start reading a file.

        Raises:
            Broke: the worker ended.
        """
        ...

    async def answer(self) -> Answer:
        """Return the next answer.

        Raises:
            Broke: the worker ended.
        """
        ...

    async def stop(self) -> None:
        """End the worker."""
        ...


async def start_worker(*, process: bool = True) -> Worker:
    """Start a worker process. If `process` is False, or processes are not allowed, return a worker on a thread."""
    if not process:
        return _Thread()
    command = [sys.executable, "-P", "-m", "ragcore.ingest.worker", str(MEMORY_MB * 1024 * 1024)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        started = await anyio.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    except (OSError, ValueError) as error:
        logger.warning("ingest: can't start a process (%s): files are read on threads, without memory limits", error)
        return _Thread(
            note=f"processes are not allowed here ({error}): files were read on threads, without memory limits"
        )
    return _Process(started)


class _Process:
    note = ""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._buffer = bytearray()

    async def ask(self, path: Path, *, lines: bool, whole_pages: bool) -> None:
        assert self._process.stdin is not None
        try:
            asked = {"path": os.fspath(path), "lines": lines, "whole_pages": whole_pages}
            await self._process.stdin.send(json.dumps(asked).encode() + b"\n")
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise Broke from error

    async def answer(self) -> Answer:
        (length,) = struct.unpack(">I", await self._read(4))
        if length > MOST_MESSAGE:
            raise Broke
        found: Answer = json.loads(await self._read(length))
        return found

    async def stop(self) -> None:
        with anyio.move_on_after(KILL_SECONDS, shield=True):
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    self._process.kill()
            if self._process.stdin is not None:
                await self._process.stdin.aclose()
            # Read its output to the end: asyncio closes a process's pipe only after it has read the end.
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                assert self._process.stdout is not None
                while True:
                    await self._process.stdout.receive(1024 * 1024)
            await self._process.wait()
            if self._process.stdout is not None:
                await self._process.stdout.aclose()
            await anyio.lowlevel.checkpoint()

    async def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        while len(self._buffer) < size:
            try:
                self._buffer += await self._process.stdout.receive(1024 * 1024)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                raise Broke from error
        read = bytes(self._buffer[:size])
        del self._buffer[:size]
        return read


class _Thread:
    """A worker for systems that allow no processes. A thread can't be killed: if it hangs, it is abandoned, and the next worker has its own thread."""

    def __init__(self, *, note: str = "") -> None:
        self.note = note
        self._threads = Threads(1, name="reading")
        self._answers: Any = None

    async def ask(self, path: Path, *, lines: bool, whole_pages: bool) -> None:
        self._answers = answers(os.fspath(path), lines, whole_pages)

    async def answer(self) -> Answer:
        found: Answer | None = await self._threads.run(lambda: next(self._answers, None))
        if found is None:
            raise Broke
        return found

    async def stop(self) -> None:
        """Do nothing: the thread ends by itself, or is abandoned."""

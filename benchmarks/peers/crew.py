"""Manages the processes of the adapters: virtual environments, start, messages and end."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from tests.support import environments
from tests.support.child import end

from benchmarks.peers.peer import Job
from ragcore.loadtest.figures import say

__all__ = ["ADAPTERS", "Lap", "Member", "environment", "member"]

ROOT = Path(__file__).parents[2]
# For each adapter, its key in the table `peers` of tests/support/environments.toml. The environment of ragcore also needs this project.
ADAPTERS = {
    "hand_written": "hand-written",
    "ragcore_client": "ragcore",
    "threaded": "hand-written",
    "langchain": "langchain",
    "llama_index": "llama-index",
    "haystack": "haystack",
}
START_SECONDS = 120.0


def environment(adapter: str) -> Path | None:
    """Create or update an adapter's virtual environment and return its Python. If that fails, print a message and return None."""
    name = ADAPTERS[adapter]
    try:
        return environments.environment("peers", name, more=["-e", str(ROOT)] if name == "ragcore" else ())
    except environments.InstallError as error:
        say(f"{adapter} is left out, because installing {name} failed: {error}")
        return None


@dataclass
class Lap:
    """Results of the questions of one run.

    Attributes:
        asked, ended: times on the machine's monotonic clock, by question number.
        kinds: right, wrong or error, by question number.
        done: the resources that the process used; empty if the run did not end in time.
    """

    asked: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    details: dict[int, str] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> list[float]:
        """The seconds that each question took, for questions that ended."""
        return [end - self.asked[number] for number, end in self.ended.items()]

    def hung(self, deadline: float, after: float) -> int:
        """Count the questions that ended later than `after` seconds past their deadline, or that did not end."""
        return sum(self.ended.get(number, float("inf")) - at > deadline + after for number, at in self.asked.items())


class Member:
    """A running adapter."""

    def __init__(self, name: str, process: anyio.abc.Process) -> None:
        self.name = name
        self.pid = process.pid
        self.packages = 0
        self._process = process
        self._buffer = b""

    async def run(self, *, concurrency: int, count: int, deadline: float, patience: float) -> Lap:
        """Ask `count` questions. After `patience` seconds return the results so far."""
        lap = Lap()
        await self._tell(concurrency=concurrency, count=count, deadline=deadline)
        with anyio.move_on_after(patience):
            while not lap.done:
                said = await self._line()
                match said.pop("event"):
                    case "asked":
                        lap.asked[said["number"]] = said["at"]
                    case "ended":
                        number = said["number"]
                        lap.ended[number], lap.kinds[number] = said["at"], said["kind"]
                        lap.details[number] = said["detail"]
                    case "done":
                        lap.done = said
        for number in range(count):
            # If the event loop is blocked, questions may never be asked. Their waiting time counts from the beginning of the run.
            lap.asked.setdefault(number, min(lap.asked.values(), default=0.0))
        return lap

    async def ready(self) -> None:
        """Wait until the adapter has started.

        Raises:
            RuntimeError: the adapter did not start.
        """
        with anyio.fail_after(START_SECONDS):
            self.packages = int((await self._line())["packages"])

    def sockets(self) -> int:
        """Return the number of open sockets of the process."""
        count = 0
        for file in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                count += str(file.readlink()).startswith("socket:")
            except OSError:  # the socket was closed meanwhile
                continue
        return count

    async def _tell(self, **what: Any) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send((json.dumps(what) + "\n").encode())

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            try:
                self._buffer += await self._process.stdout.receive()
            except anyio.EndOfStream:
                raise RuntimeError(f"{self.name} ended: see its output above") from None
        line, _, self._buffer = self._buffer.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said


@asynccontextmanager
async def member(adapter: str, python: Path, job: Job, folder: Path) -> AsyncIterator[Member]:
    """Start an adapter for the block. An adapter that does not end is killed."""
    command = [
        str(python),
        "-W",
        "ignore",
        "-m",
        "benchmarks.peers.worker",
        adapter,
        json.dumps(asdict(job)),
        str(folder),
    ]
    process = await anyio.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, cwd=ROOT)
    try:
        made = Member(adapter, process)
        await made.ready()
        yield made
    finally:
        await end(process)

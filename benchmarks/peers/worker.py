"""Drives one adapter in its own process: `python -m benchmarks.peers.worker ADAPTER JOB`. Uses only the standard library.

Reads commands as lines of JSON from stdin. Writes a line to stdout when a question is asked and when it ends, so that the parent process can tell which
questions hang even if this process's event loop hangs.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Job, Peer, Row

QUESTIONS = "questions.json"
ROWS = "rows.json"


def say(**what: Any) -> None:
    """Write a line for the parent process."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main(adapter: str, job: Job, folder: Path) -> None:
    """Execute commands until stdin ends."""
    peer: Peer = importlib.import_module(f"benchmarks.peers.{adapter}").peer(job)
    rows = [Row(**row) for row in json.loads((folder / ROWS).read_text())]
    questions: list[tuple[str, str]] = json.loads((folder / QUESTIONS).read_text())
    await peer.start(rows)
    names = {distribution.name for distribution in importlib.metadata.distributions()} - {"pip", "setuptools", "wheel"}
    say(event="ready", packages=len(names))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        await run(peer, questions, **json.loads(line))
    await peer.close()


async def run(
    peer: Peer, questions: Sequence[tuple[str, str]], *, concurrency: int, count: int, deadline: float
) -> None:
    """Ask `count` questions, `concurrency` of them at once."""
    numbers = iter(range(count))
    began, used = time.monotonic(), time.process_time()

    async def user() -> None:
        # If the event loop is blocked, no question can begin. So the waiting time counts from the moment at which the question should have begun.
        due = began
        for number in numbers:
            say(event="asked", number=number, at=due)
            await one(peer, number, *questions[number % len(questions)], deadline)
            due = time.monotonic()
            await asyncio.sleep(0)  # let the other users ask too, even if the adapter never yields

    async with asyncio.TaskGroup() as users:
        for _ in range(concurrency):
            users.create_task(user())
    wall, cpu = time.monotonic() - began, time.process_time() - used
    say(
        event="done",
        wall=wall,
        cpu=cpu,
        peak_mb=peak_mb(),
    )


def peak_mb() -> float:
    """Return the peak memory of this process in MB. `ru_maxrss` of getrusage would include the memory that the parent had at the fork."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def one(peer: Peer, number: int, question: str, fact: str, deadline: float) -> None:
    """Ask one question and report its result."""
    try:
        text = await peer.ask(question, deadline)
    except Exception as error:
        kind, detail = "error", f"{type(error).__name__}: {error}"[:200]
    else:
        kind, detail = ("right", "") if fact in text else ("wrong", text[:200])
    say(event="ended", number=number, at=time.monotonic(), kind=kind, detail=detail)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Job(**json.loads(sys.argv[2])), Path(sys.argv[3])))

"""Runs mixed traffic for a long time with intermittent faults. Memory and file descriptors must not grow, and each request must have a known outcome.

The servers and the faults run in another process, so that only the client is measured.
"""

from __future__ import annotations

import gc
import math
import os
import random
import sys
import tracemalloc
from array import array
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer
from tests.support.bench import QUESTION, TENANT, Client, client
from tests.support.elsewhere import elsewhere

from ragcore import Delta, Prompt, RagcoreError
from ragcore.loadtest.driving.monitor import resident_mb
from ragcore.loadtest.estimates import slope
from ragcore.loadtest.figures import Chart, Figures, Line, say

CLIENTS = 8
# The share of the run that counts as warm-up, in which caches fill and the allocator reaches its size. Resident memory grows long after the number of
# Python's blocks has stopped growing.
WARM_UP = 2 / 3
SECONDS = 20 * 60.0
QUICK_SECONDS = 40.0


def run(
    *,
    quick: bool,
    seconds: Annotated[float | None, typer.Option(help="Length of the run in seconds.", show_default="1200")] = None,
    trace: Annotated[
        bool,
        typer.Option(
            help="Print the lines of code that hold more memory at the end than after the warm-up. Slow, and needs memory itself."
        ),
    ] = False,
) -> Figures:
    """Run for 20 minutes. With --quick: 40 s."""
    return anyio.run(partial(soak, seconds or (QUICK_SECONDS if quick else SECONDS), trace=trace))


async def soak(seconds: float, *, trace: bool = False) -> Figures:
    """Run the whole client against real servers for `seconds`."""
    figures = Figures()
    async with elsewhere() as servers, client(servers.addresses) as made:
        traffic = _Traffic(made)
        fds_before = await _at_rest(made)
        await servers.weather(3)
        samples = await _sample_while(traffic, seconds, trace=trace)
        await servers.fair()
        await anyio.sleep(1)
        fds = await _at_rest(made)
        running = made.rag.stats().calls["running"]
    points = list(zip(samples.sent, samples.resident, strict=True))
    warm = int(len(points) * WARM_UP)
    resident = slope(points[warm:])
    blocks = slope(list(zip(samples.sent, samples.blocks, strict=True))[warm:])
    figures.values["seconds"] = seconds
    figures.values["sent"] = traffic.sent
    figures.values["accounted"] = accounted = sum(traffic.outcomes.values())
    figures.values["running_at_the_end"] = running
    figures.values["rss_slope_kb_per_1000"] = 1000 * resident.value
    figures.values["rss_slope_margin_kb_per_1000"] = 1000 * resident.margin
    figures.values["blocks_slope_per_1000"] = 1000 * blocks.value
    figures.values["blocks_slope_margin_per_1000"] = 1000 * blocks.margin
    figures.values["rss_end_mb"] = samples.resident[-1] / 1024
    figures.values["fd_growth"] = growth = max(0, fds - fds_before)
    figures.charts += [
        Chart(
            "Resident memory", "requests sent", "MB", [Line("", samples.sent, [kb / 1024 for kb in samples.resident])]
        ),
        Chart("Blocks that Python has allocated", "requests sent", "blocks", [Line("", samples.sent, samples.blocks)]),
    ]
    third = len(points) // 3
    for name, part in (
        ("first", points[:third]),
        ("second", points[third : 2 * third]),
        ("last", points[2 * third :]),
    ):
        figures.values[f"rss_slope_kb_per_1000.{name}_third"] = 1000 * slope(part).value
    for outcome, count in sorted(traffic.outcomes.items()):
        figures.values[f"outcome.{outcome}"] = count
    figures.expect(accounted == traffic.sent, "accounted == sent")
    figures.expect(running == 0, "running_at_the_end == 0")
    figures.expect(resident.low <= 0, "the interval of rss_slope_kb_per_1000 includes 0 or is below it")
    figures.expect(growth == 0, "fd_growth == 0")
    return figures


class _Traffic:
    """Sends requests of all kinds and counts the outcome of each."""

    def __init__(self, made: Client) -> None:
        self._rag = made.rag
        self.sent = 0
        self.outcomes: dict[str, int] = {}

    async def client(self, number: int, until: float) -> None:
        draw = random.Random(number)
        while anyio.current_time() < until:
            await anyio.sleep(draw.expovariate(20))
            await self.one(draw)

    async def one(self, draw: random.Random) -> None:
        self.sent += 1
        outcome = "cancelled"
        try:
            with anyio.move_on_after(draw.uniform(0.001, 0.2) if draw.random() < 0.1 else math.inf):
                outcome = await self._call(draw)
        except RagcoreError as error:
            outcome = type(error).__name__
        finally:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    async def _call(self, draw: random.Random) -> str:
        rag, timeout = self._rag, draw.choice((0.5, 1.0, 2.0))
        match draw.choice(("ask", "ask", "stream", "leave", "retrieve")):
            case "ask":
                answer = await rag.ask(QUESTION, tenant=TENANT, timeout=timeout)
                return "degraded" if answer.degraded else "answered"
            case "stream":
                async with rag.stream(QUESTION, tenant=TENANT, timeout=timeout) as events:
                    await events.answer()
                return "streamed"
            case "leave":
                async with rag.stream(QUESTION, tenant=TENANT, timeout=timeout) as events:
                    async for event in events:
                        if isinstance(event, Delta):
                            break
                return "left"
        await rag.retrieve(QUESTION, tenant=TENANT, timeout=timeout)
        return "retrieved"


async def _at_rest(made: Client) -> int:
    """Use every pool more than the traffic does. Then return the number of open files of the idle client."""
    for breaker in made.breakers():
        breaker.reset()
    embedder = made.rag.retriever.embedder
    assert embedder is not None
    async with anyio.create_task_group() as group:
        for number in range(2 * CLIENTS):
            group.start_soon(partial(embedder.embed, [f"text {number}"], kind="document"))
            group.start_soon(made.rag._generators.given.generate, Prompt(f"question {number}"))
            group.start_soon(made.store.ping)
    await anyio.sleep(0.5)
    return _descriptors()


class _Samples:
    """Samples of each second: requests sent, resident kB, blocks that Python has allocated.

    Resident memory also grows because of fragmentation, so only growing blocks show a leak. The arrays have a fixed size, because a list of tuples would
    add about forty blocks for every thousand requests.
    """

    def __init__(self, most: int) -> None:
        self.sent, self.resident, self.blocks = (array("d", bytes(8 * most)) for _ in range(3))
        self._count = 0

    def take(self, sent: int) -> None:
        if self._count < len(self.sent):
            self.sent[self._count] = sent
            self.resident[self._count] = 1024 * (resident_mb(os.getpid()) or 0.0)
            self.blocks[self._count] = sys.getallocatedblocks()
            self._count += 1

    def end(self) -> None:
        for values in (self.sent, self.resident, self.blocks):
            del values[self._count :]


async def _sample_while(traffic: _Traffic, seconds: float, *, trace: bool) -> _Samples:
    """Take samples while the clients run."""
    step = min(1.0, seconds / 60)
    samples = _Samples(int(seconds / step) + 1)
    began = anyio.current_time()
    until = began + seconds
    warm: tracemalloc.Snapshot | None = None
    async with anyio.create_task_group() as clients:
        for number in range(CLIENTS):
            clients.start_soon(traffic.client, number, until)
        while anyio.current_time() < until - step:
            await anyio.sleep(step)
            gc.collect()
            samples.take(traffic.sent)
            if trace and warm is None and anyio.current_time() > began + WARM_UP * seconds:
                tracemalloc.start(12)
                warm = tracemalloc.take_snapshot()
        if warm is not None:
            gc.collect()
            for growth in tracemalloc.take_snapshot().compare_to(warm, "traceback")[:25]:
                say(f"+ {growth.size_diff} B, {growth.count_diff} blocks:\n" + "\n".join(growth.traceback.format()))
    samples.end()
    return samples


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))

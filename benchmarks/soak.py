"""Mixed traffic for a long time, with faults coming and going: memory and file descriptors stay, and every request is accounted for."""

from __future__ import annotations

import argparse
import gc
import math
import random
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio

from benchmarks.bench import QUESTION, TENANT, Bench, bench
from benchmarks.figures import Figures, say
from benchmarks.matrix import matrix
from ragcore import Delta, Prompt, RagcoreError

CLIENTS = 8
# Of the run, in which caches fill and the allocator finds its size.
WARM_UP = 0.4
BLOCKS = 12
# Student's t for 97.5 % and BLOCKS - 2 degrees of freedom.
STUDENT = 2.228
SECONDS = 20 * 60.0
QUICK_SECONDS = 40.0


def run(*, quick: bool, arguments: Sequence[str] = ()) -> Figures:
    """20 minutes, or 40 s.

    Args:
        arguments: `--seconds N`.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak")
    parser.add_argument("--seconds", type=float, default=QUICK_SECONDS if quick else SECONDS)
    return anyio.run(soak, parser.parse_args(arguments).seconds)


async def soak(seconds: float) -> Figures:
    """The whole client against real servers, for so long."""
    figures = Figures()
    async with bench() as world:
        traffic = _Traffic(world)
        fds_before = await _at_rest(world)
        async with anyio.create_task_group() as group:
            scope = group.cancel_scope
            group.start_soon(_weather, world, seconds)
            samples = await _sample_while(traffic, seconds, scope)
        await anyio.sleep(1)
        fds = await _at_rest(world)
        running = world.rag.stats().calls["running"]
    settled = samples[int(len(samples) * WARM_UP) :]
    slope, margin = _slope([(sent, resident) for sent, resident, _ in settled])
    blocks, blocks_margin = _slope([(sent, count) for sent, _, count in settled])
    figures.values["seconds"] = seconds
    figures.values["sent"] = traffic.sent
    figures.values["accounted"] = accounted = sum(traffic.outcomes.values())
    figures.values["running_at_the_end"] = running
    figures.values["rss_slope_kb_per_1000"] = 1000 * slope
    figures.values["rss_slope_margin_kb_per_1000"] = 1000 * margin
    figures.values["blocks_slope_per_1000"] = 1000 * blocks
    figures.values["blocks_slope_margin_per_1000"] = 1000 * blocks_margin
    figures.values["rss_end_mb"] = samples[-1][1] / 1024
    figures.values["fd_growth"] = growth = max(0, fds - fds_before)
    third = len(samples) // 3
    for name, part in (
        ("first", samples[:third]),
        ("second", samples[third : 2 * third]),
        ("last", samples[2 * third :]),
    ):
        figures.values[f"rss_slope_kb_per_1000.{name}_third"] = 1000 * _slope([point[:2] for point in part])[0]
    for outcome, count in sorted(traffic.outcomes.items()):
        figures.values[f"outcome.{outcome}"] = count
    figures.expect(accounted == traffic.sent, "accounted == sent")
    figures.expect(running == 0, "running_at_the_end == 0")
    figures.expect(slope <= margin, "the interval of rss_slope_kb_per_1000 reaches down to 0")
    figures.expect(growth == 0, "fd_growth == 0")
    return figures


class _Traffic:
    """Requests of all kinds, each of which ends in one of the outcomes that are counted."""

    def __init__(self, world: Bench) -> None:
        self._world = world
        self.sent = 0
        self.outcomes: dict[str, int] = {}

    def forget(self) -> None:
        """What the test servers remember is not the client's memory."""
        for server in (self._world.embedding, self._world.model):
            server.requests.clear()
            server.headers.clear()

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
        rag, timeout = self._world.rag, draw.choice((0.5, 1.0, 2.0))
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


async def _at_rest(world: Bench) -> int:
    """Open files with every pool filled, fuller than the traffic fills them, and nothing going on."""
    for breaker in world.breakers():
        breaker.reset()
    embedder = world.rag.retriever.embedder
    assert embedder is not None
    async with anyio.create_task_group() as group:
        for number in range(2 * CLIENTS):
            group.start_soon(partial(embedder.embed, [f"text {number}"], kind="document"))
            group.start_soon(world.rag._given.generate, Prompt(f"question {number}"))
            group.start_soon(world.store.ping)
    await anyio.sleep(0.5)
    return _descriptors()


async def _weather(world: Bench, seconds: float) -> None:
    """One fault after the other, each for a while, with fair weather in between."""
    draw = random.Random(3)
    # Without pauses, which outlast their fault, and without bodies that are the memory to be measured.
    out = ("429", "100 MB")
    faults = [(name, strike) for name, strike in matrix().items() if not name[1].startswith(out) and name[0] != "all"]
    until = anyio.current_time() + seconds - 2.0
    while anyio.current_time() < until:
        (stage, fault), strike = draw.choice(faults)
        say(f"{stage}: {fault}")
        async with strike(world):
            await anyio.sleep(draw.uniform(0.3, 1.5))
        await anyio.sleep(draw.uniform(0.3, 1.5))


async def _sample_while(traffic: _Traffic, seconds: float, scope: anyio.CancelScope) -> list[tuple[int, float, int]]:
    """(requests sent, resident kB, blocks that Python has allocated) over the time that the clients run.

    Resident memory grows with fragments too; what is leaked is among the blocks.
    """
    samples: list[tuple[int, float, int]] = []
    until = anyio.current_time() + seconds
    async with anyio.create_task_group() as clients:
        for number in range(CLIENTS):
            clients.start_soon(traffic.client, number, until)
        while anyio.current_time() < until:
            await anyio.sleep(min(1.0, seconds / 60))
            traffic.forget()
            gc.collect()
            samples.append((traffic.sent, _resident_kb(), sys.getallocatedblocks()))
    scope.cancel()
    return samples


def _slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares over the means of blocks, which stay near each other in time, with its 95 % margin."""
    size = max(1, len(points) // BLOCKS)
    blocks = [points[start : start + size] for start in range(0, size * BLOCKS, size)]
    xs = [statistics.fmean(point[0] for point in block) for block in blocks if block]
    ys = [statistics.fmean(point[1] for point in block) for block in blocks if block]
    line = statistics.linear_regression(xs, ys)
    middle = statistics.fmean(xs)
    spread = sum((x - middle) ** 2 for x in xs)
    rest = sum((y - line.intercept - line.slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    return line.slope, STUDENT * math.sqrt(rest / max(1, len(xs) - 2) / spread)


def _resident_kb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1024


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))

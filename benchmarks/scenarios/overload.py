"""Many times more questions than the model can answer: good answers must not become fewer, and the rest be told at once."""

from __future__ import annotations

import random
import statistics

import anyio

from benchmarks.driving.monitor import driving
from benchmarks.estimates import percentile
from benchmarks.figures import Figures, say
from benchmarks.world.bench import FACT, QUESTION, TENANT, Bench, bench
from ragcore import Overloaded, RagcoreError
from ragcore.resilience import Bulkhead, Policy
from ragcore.testing import OpenAIServer

SLOTS = 4
# Seconds that the model takes for an answer: with four slots it answers ten a second.
ANSWER_SECONDS = 0.4
CAPACITY = SLOTS / ANSWER_SECONDS
DEADLINE = 3.0
RATES = (0.5, 1.0, 2.0, 10.0)
LEAST_RATIO = 0.9
MOST_SHED_MS = 50.0


def run(*, quick: bool) -> Figures:
    """Poisson arrivals at 0.5, 1, 2 and 10 times the capacity of the model server, 6 s each, or 20."""
    return anyio.run(_run, 6.0 if quick else 20.0)


async def _run(seconds: float) -> Figures:
    policy = Policy("generation", bulkhead=Bulkhead(SLOTS, queue=SLOTS), retry=False)
    figures = Figures()
    goodput: dict[float, float] = {}
    shed: list[float] = []
    model = OpenAIServer(first_token_latency=ANSWER_SECONDS, slots=SLOTS)
    async with bench(model=model, model_policy=policy) as world, driving(shared=False) as own:
        await world.rag.ask(QUESTION, tenant=TENANT)
        for rate in RATES:
            load = _Load(world)
            await load.run(rate * CAPACITY, seconds)
            goodput[rate] = load.good / seconds
            say(f"{rate:g} × capacity: {load.sent} sent, {load.good} good, {len(load.shed)} shed, {load.other} other")
            figures.values[f"goodput_at_{rate:g}"] = goodput[rate]
            shed = load.shed
    figures.values["capacity_per_s"] = CAPACITY
    figures.values["goodput_ratio_to_peak"] = ratio = goodput[RATES[-1]] / max(goodput.values())
    figures.values["shed_p50_ms"] = 1000 * statistics.median(shed)
    figures.values["shed_p99_ms"] = p99 = 1000 * percentile(shed, 0.99)
    # Client, servers and driver share a process here: what the loop is late, the refusals are late.
    if 1000 * own.lag_p99 > MOST_SHED_MS / 2:
        figures.invalid.append(
            f"the event loop was {1000 * own.lag_p99:.0f} ms late (99th percentile): the machine is too busy"
        )
    figures.expect(ratio >= LEAST_RATIO, f"goodput_ratio_to_peak >= {LEAST_RATIO:g}")
    figures.expect(p99 < MOST_SHED_MS, f"shed_p99_ms < {MOST_SHED_MS:g}")
    return figures


class _Load:
    """Questions at a rate, whether or not earlier ones have been answered."""

    def __init__(self, world: Bench) -> None:
        self._world = world
        self._draw = random.Random(7)
        self.sent = self.good = self.other = 0
        self.shed: list[float] = []

    async def run(self, rate: float, seconds: float) -> None:
        async with anyio.create_task_group() as group:
            due = anyio.current_time()
            end = due + seconds
            while due < end:
                await anyio.sleep_until(due)
                self.sent += 1
                group.start_soon(self._one, due)
                due += self._draw.expovariate(rate)

    async def _one(self, due: float) -> None:
        """Measured from the moment in which it should have been sent."""
        try:
            answer = await self._world.rag.ask(QUESTION, tenant=TENANT, timeout=DEADLINE)
        except Overloaded:
            self.shed.append(anyio.current_time() - due)
        except RagcoreError:
            self.other += 1
        else:
            right = FACT in answer.text and not answer.degraded
            self.good += right
            self.other += not right

"""Simulates rollouts of bad and of equal candidates, with the whole `Rollout` in virtual time: what the guard finds, how soon, and how long members wait."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import anyio
import typer

from ragcore.errors import DeadlineExceeded, GenerationError
from ragcore.loadtest.figures import Figures, say
from ragcore.rollout import Rollout
from ragcore.testing.simulated import run_seeded
from ragcore.types import Answer

# Questions per second, tenants, seconds of a call. Tenants ask by Zipf's law, as people do: a few ask most.
RATE = 5.0
TENANTS = 2_000
TIMEOUT = 30.0
# Seconds of an answer: log-normal, as of language models. The median and the spread of the logarithm.
MEDIAN, SPREAD = 3.0, 0.6
STABLE_ERRORS = 0.01
# How often two runs of an equal side differ in a figure.
NOISE = 0.01
MOST_BAD, MOST_EQUAL = 200, 2_000
# The limit of a simulation in which nothing is decided.
MOST_QUESTIONS = 200_000


@dataclass(frozen=True)
class World:
    """How a candidate behaves.

    Attributes:
        errors: the share of its calls that fail.
        slower: how much longer it takes than the stable side.
        hang_at: the number of the call that never returns; None: none does.
        wrong_figures: the share of its answers with another figure.
    """

    errors: float = STABLE_ERRORS
    slower: float = 1.0
    hang_at: int | None = None
    wrong_figures: float = NOISE


WORLDS = {
    "errors": World(errors=0.1),
    "slow": World(slower=2.0),
    "hang": World(hang_at=50),
    "figures": World(wrong_figures=0.2),
    "equal": World(),
}


class _Side:
    """A simulated client, which respects its time limit unless it hangs."""

    def __init__(self, world: World, draw: random.Random) -> None:
        self._world = world
        self._draw = draw
        self.calls = 0

    async def __call__(self, question: str, *, tenant: str, timeout: float) -> Answer:
        self.calls += 1
        draw, world = self._draw, self._world
        if self.calls == world.hang_at:
            await anyio.sleep_forever()
        seconds = world.slower * MEDIAN * math.exp(draw.gauss(0, SPREAD))
        fails, wrong = draw.random() < world.errors, draw.random() < world.wrong_figures
        if seconds >= timeout:
            await anyio.sleep(timeout)
            raise DeadlineExceeded("simulated", budget=timeout, elapsed=timeout)
        await anyio.sleep(seconds)
        if fails:
            raise GenerationError("simulated")
        return Answer(f"The deductible of {question} is ${'1,000' if wrong else '1,500'}.")


@dataclass
class _Result:
    status: str = "running"
    reason: str = ""
    calls: int = 0
    asked: int = 0
    worst: float = 0.0


def run(
    *,
    quick: bool,
    runs: Annotated[int | None, typer.Option(help="Runs of each candidate.", show_default="100")] = None,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
    share: Annotated[float, typer.Option(help="The share at the beginning; 0: in the shadow.")] = 0.05,
) -> Figures:
    """Roll out each bad candidate and an equal one, with all defaults of `Rollout`."""
    count = runs or (5 if quick else 100)
    figures, worst = Figures(), 0.0
    rates: dict[str, float] = {}
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), _quiet) as pool:
        for name, world in WORLDS.items():
            most = MOST_EQUAL if name == "equal" else MOST_BAD
            wanted = "promoted" if name == "equal" else "rolled_back"
            results = pool.map(partial(_roll_out, world, share=share, most=most), range(first, first + count))
            good = [one for one in results if one.status == wanted and one.calls <= most]
            calls = sorted(one.calls for one in good)
            worst = max(worst, *(one.worst for one in results))
            rates[name] = len(good) / count
            figures.values[f"{name}.{wanted}"] = rates[name]
            figures.values[f"{name}.calls_p50"] = calls[len(calls) // 2] if calls else None
            figures.values[f"{name}.calls_max"] = calls[-1] if calls else None
            reasons = Counter(one.reason.partition(":")[0] for one in results if one.status == "rolled_back")
            say(f"{name}: {len(good)} of {count} {wanted}; rolled back because of {dict(reasons) or 'nothing'}")
    promoted = rates.pop("equal")
    figures.values.update(
        rolled_back=min(rates.values()), promoted=promoted, worst_wait_s=worst, deadline_s=TIMEOUT, runs=count
    )
    figures.expect(min(rates.values()) >= 0.99, "rolled_back >= 0.99")
    figures.expect(promoted >= 0.95, "promoted >= 0.95")
    figures.expect(worst <= TIMEOUT, "worst_wait_s <= deadline_s")
    return figures


def _quiet() -> None:
    logging.getLogger("ragcore.rollout").setLevel(logging.ERROR)


def _roll_out(world: World, seed: int, *, share: float, most: int) -> _Result:
    """Ask until the rollout has ended or the candidate has had `most` calls."""
    draw = random.Random(f"{seed}:traffic")
    stable = _Side(World(), random.Random(f"{seed}:stable"))
    candidate = _Side(world, random.Random(f"{seed}:candidate"))
    result = _Result()
    weights = [1 / rank for rank in range(1, TENANTS + 1)]
    tenants = iter(draw.choices(range(TENANTS), weights, k=MOST_QUESTIONS))

    async def one(rollout: Rollout[Any], tenant: int) -> None:
        began = anyio.current_time()
        with suppress(DeadlineExceeded, GenerationError):
            await rollout.ask(f"member {tenant}", tenant=f"t{seed}-{tenant}", timeout=TIMEOUT)
        result.worst = max(result.worst, anyio.current_time() - began)

    async def main() -> None:
        async with Rollout(stable, candidate, share=share, name=f"release-{seed}") as rollout:
            async with anyio.create_task_group() as group:
                while result.asked < MOST_QUESTIONS and candidate.calls <= most:
                    if rollout.state.status in ("promoted", "rolled_back"):
                        break
                    await anyio.sleep(draw.expovariate(RATE))
                    group.start_soon(one, rollout, next(tenants))
                    result.asked += 1
                result.calls = candidate.calls
                result.status, result.reason = rollout.state.status, rollout.state.reason

    run_seeded(main, seed=seed)
    return result

"""Seeds: a world whose parts are slow, fail and hang as a seed has it, on a virtual clock, so that a failing seed replays exactly."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable

import anyio

from ragcore.errors import RagcoreError
from ragcore.rag import RAG
from ragcore.testing.fakes import FakeEmbedder, FakeGenerator, FakeStore, fake_rag
from ragcore.testing.faults import Fail, Fault, Faults, Hang, Slow
from ragcore.testing.virtual import VirtualLoop

__all__ = ["World", "simulate"]


class World:
    """What a scenario runs in.

    Attributes:
        seed: of all that is drawn.
        random: to draw from in the scenario.
        rag: a client of fakes, started.
        embedder, store, generator: its parts, whose faults are drawn from the seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(f"{seed}:scenario")
        self.embedder = FakeEmbedder()
        self.store = FakeStore()
        self.generator = FakeGenerator()
        for name, faults in (
            ("embed", self.embedder.faults),
            ("search", self.store.faults),
            ("generate", self.generator.faults),
        ):
            _draw(random.Random(f"{seed}:{name}"), faults)
        self.rag: RAG = fake_rag(embedder=self.embedder, store=self.store, generator=self.generator)


def simulate(scenario: Callable[[World], Awaitable[object]], /, *, seeds: Iterable[int]) -> None:
    """Run a scenario once for each seed, with no socket and no sleeping.

    After each run: no call is in flight, and no task is left. A failing seed is named in a note on the error.

    Args:
        scenario: gets a `World` with a started client; ragcore's own errors are part of the world, all else is a failure.
        seeds: whole numbers.
    """
    for seed in seeds:
        try:
            anyio.run(_one, scenario, seed, backend_options={"loop_factory": VirtualLoop})
        except BaseException as error:
            error.add_note(f"seed {seed} failed; replay it with simulate(scenario, seeds=[{seed}])")
            raise


async def _one(scenario: Callable[[World], Awaitable[object]], seed: int) -> None:
    random.seed(seed)  # the library draws its jitter from the module's generator
    world = World(seed)
    async with world.rag as rag:
        with contextlib.suppress(RagcoreError):
            await scenario(world)
        assert rag.inflight() == (), f"calls left in flight: {rag.inflight()}"
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"tasks left: {left}"


def _draw(rng: random.Random, faults: Faults) -> None:
    """Most calls are a little slow, some fail, few hang."""

    def fault() -> Fault | None:
        kind = rng.random()
        if kind < 0.05:
            return Hang()
        if kind < 0.2:
            return Fail(rng.choice((429, 500, 503)))
        return Slow(rng.lognormvariate(-2, 1))

    faults.next(*(fault() for _ in range(50)))

"""Runs servers in another process, so that their work and memory don't count as the client's.

`python -m tests.support.elsewhere` starts the servers and prints their addresses. Commands on its stdin choose the faults.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import anyio

from ragcore.testing import OpenAIServer
from tests.support.child import Child, child, obey
from tests.support.matrix import matrix
from tests.support.servers import DIMENSION, Addresses, Servers, servers

__all__ = ["Elsewhere", "elsewhere"]


class Elsewhere:
    """Servers in another process."""

    def __init__(self, process: Child) -> None:
        self._child = process
        self.addresses = Addresses(**process.said)

    async def weather(self, seed: int) -> None:
        """Start and end faults, one after the other, in an order drawn from the seed."""
        await self._child.tell("weather", str(seed))

    async def strike(self, stage: str, fault: str) -> None:
        """Start one fault of the matrix."""
        await self._child.tell("strike", stage, fault)

    async def latencies(self, *, embedding: float, first_token: float, token: float) -> None:
        """Set how long the servers take, in seconds."""
        await self._child.tell("latencies", str(embedding), str(first_token), str(token))

    async def model(self, *, slots: int, first_token: float, token: float) -> None:
        """Set how many chats the model answers at once, and how long each takes, in seconds."""
        await self._child.tell("model", str(slots), str(first_token), str(token))

    async def length(self, tokens: int) -> None:
        """Set the number of tokens of each answer."""
        await self._child.tell("length", str(tokens))

    async def fair(self) -> None:
        """End all faults."""
        await self._child.tell("fair")


@asynccontextmanager
async def elsewhere(**options: Any) -> AsyncIterator[Elsewhere]:
    """Start servers in another process for the block.

    Args:
        options: `embedding` and `model`: options of `OpenAIServer`.
    """
    async with child("tests.support.elsewhere", options) as process:
        yield Elsewhere(process)


async def _main(options: Mapping[str, Any]) -> None:
    embedding = OpenAIServer(**{"dimension": DIMENSION, **options.get("embedding", {})})
    model = OpenAIServer(**options.get("model", {}))
    async with servers(embedding=embedding, model=model) as world:
        print(json.dumps(asdict(world.addresses)), flush=True)
        async with anyio.create_task_group() as group:
            group.start_soon(_forget, world)
            fair = anyio.Event()
            async for words in obey():
                match words:
                    case ["weather", seed]:
                        fair = anyio.Event()
                        group.start_soon(_weather, world, int(seed), fair)
                    case ["strike", stage, fault]:
                        fair = anyio.Event()
                        group.start_soon(_strike, world, (stage, fault), fair)
                    case ["latencies", *seconds]:
                        world.embedding.embedding_latency, *of_model = map(float, seconds)
                        world.model.first_token_latency, world.model.token_latency = of_model
                    case ["length", tokens]:
                        world.model.length = int(tokens) or None
                    case ["model", slots, *seconds]:
                        world.model.slots = int(slots)
                        world.model.first_token_latency, world.model.token_latency = map(float, seconds)
                    case ["fair"]:
                        fair.set()
            group.cancel_scope.cancel()


async def _forget(world: Servers) -> None:
    while True:
        await anyio.sleep(1)
        world.forget()


async def _strike(world: Servers, fault: tuple[str, str], fair: anyio.Event) -> None:
    # Wait instead of cancelling: when the fault ends, it restarts the servers and sessions that it stopped.
    async with matrix()[fault](world):
        await fair.wait()


async def _weather(world: Servers, seed: int, fair: anyio.Event) -> None:
    """Run one fault after the other, with pauses without a fault in between."""
    draw = random.Random(seed)
    # Leave out faults with Retry-After, whose pauses last longer than the fault, and large bodies, which would dominate the measured memory.
    out = ("429", "100 MB", "bomb", "endless")
    faults = [(name, strike) for name, strike in matrix().items() if not name[1].startswith(out) and name[0] != "all"]
    while not fair.is_set():
        (stage, fault), strike = draw.choice(faults)
        print(f"{stage}: {fault}", file=sys.stderr, flush=True)
        async with strike(world):
            with anyio.move_on_after(draw.uniform(0.3, 1.5)):
                await fair.wait()
        with anyio.move_on_after(draw.uniform(0.3, 1.5)):
            await fair.wait()


if __name__ == "__main__":
    anyio.run(_main, json.loads(sys.argv[1]) if sys.argv[1:] else {})

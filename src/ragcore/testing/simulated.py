"""Makes a run depend only on its seed: the order in which tasks run, and the order in which anyio cancels them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import anyio

from ragcore.compat.private import ready_of, seeded
from ragcore.testing.virtual import VirtualLoop

__all__ = ["SeededLoop", "run_seeded"]


class SeededLoop(VirtualLoop):
    """A virtual loop that runs ready callbacks in an order drawn from its seed. On a real loop, any of these orders is possible."""

    def __init__(self, seed: int) -> None:
        self._order = random.Random(f"{seed}:order")
        super().__init__()

    def _run_once(self) -> None:
        ready = ready_of(self)
        if len(ready) > 1:
            shuffled = list(ready)
            self._order.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        super()._run_once()  # type: ignore[misc]


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Seed the global generator of `random`, from which the library draws its jitter."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def run_seeded(
    main: Callable[[], Awaitable[object]], /, *, seed: int, backend: Literal["asyncio", "trio"] = "asyncio"
) -> None:
    """Run `main` in virtual time. Runs with the same seed are equal; on asyncio, each of their steps is equal.

    Source: madsim and simloop (a seeded order of ready callbacks, a clock that jumps).
    """

    async def run() -> None:
        await main()

    with seeded(seed), _repeatable(seed):
        if backend == "asyncio":
            with asyncio.Runner(loop_factory=lambda: SeededLoop(seed)) as runner:
                runner.run(run())
            return
        import trio.testing

        clock = trio.testing.MockClock(autojump_threshold=0)
        anyio.run(run, backend="trio", backend_options={"clock": clock})

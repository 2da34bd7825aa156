"""What makes a run depend on its seed alone: the order in which tasks run, and the order in which anyio cancels them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import anyio

from ragcore.testing.virtual import VirtualLoop

__all__ = ["SeededLoop", "run_seeded"]


class SeededLoop(VirtualLoop):
    """A virtual loop that runs what is ready in an order of its seed's: any order is one that a real loop might take."""

    def __init__(self, seed: int) -> None:
        self._order = random.Random(f"{seed}:order")
        super().__init__()

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]  # asyncio's own, which it has no public name for
        if len(ready) > 1:
            shuffled = list(ready)
            self._order.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        super()._run_once()  # type: ignore[misc]


class _Ordered(dict[Any, None]):
    """A set that remembers the order of its members: by their addresses they would come in another order each time."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__(dict.fromkeys(items))

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def remove(self, item: Any) -> None:
        del self[item]


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Both backends keep tasks in sets by address; trio shuffles by a generator of its own."""
    import anyio._backends._asyncio as on_asyncio

    if hasattr(on_asyncio, "set"):
        raise RuntimeError("a simulation is running already: one at a time, and none within another")
    state = random.getstate()
    random.seed(seed)  # the library draws its jitter from the module's generator
    on_asyncio.set = _Ordered  # type: ignore[attr-defined]  # shadows the builtin in that module alone
    try:
        yield
    finally:
        del on_asyncio.set  # type: ignore[attr-defined]
        random.setstate(state)


@contextmanager
def _trios_order(seed: int) -> Iterator[None]:
    import trio._core._run as on_trio

    before: Any = on_trio
    kept = before._r, before._ALLOW_DETERMINISTIC_SCHEDULING
    before._r, before._ALLOW_DETERMINISTIC_SCHEDULING = random.Random(f"{seed}:order"), True
    try:
        yield
    finally:
        before._r, before._ALLOW_DETERMINISTIC_SCHEDULING = kept


def run_seeded(
    main: Callable[[], Awaitable[object]], /, *, seed: int, backend: Literal["asyncio", "trio"] = "asyncio"
) -> None:
    """Run `main` in virtual time; equal seeds run equally, on asyncio to the last step.

    Source: madsim and simloop (a seeded order of what is ready, a clock that jumps).
    """

    async def run() -> None:
        await main()

    with _repeatable(seed):
        if backend == "asyncio":
            with asyncio.Runner(loop_factory=lambda: SeededLoop(seed)) as runner:
                runner.run(run())
            return
        import trio.testing

        with _trios_order(seed):
            clock = trio.testing.MockClock(autojump_threshold=0)
            anyio.run(run, backend="trio", backend_options={"clock": clock})

"""The ladder of `ragcore.loadtest`, at a service or a target of the benchmarks' own."""

from __future__ import annotations

import anyio

from benchmarks.targets.choice import aimed
from benchmarks.targets.options import TargetOptions
from ragcore.loadtest.figures import Figures
from ragcore.loadtest.ladder import LadderOptions, climb


def run(*, quick: bool, target: TargetOptions, ladder: LadderOptions) -> Figures:
    """Each level in turn, then a steady load for the memory."""

    async def body() -> Figures:
        async with aimed(target) as aim:
            return await climb(aim, ladder, quick=quick)

    return anyio.run(body)

"""Runs the ladder of `ragcore.loadtest` with a service or one of the benchmarks' own targets."""

from __future__ import annotations

import anyio

from benchmarks.targets.choice import aimed
from benchmarks.targets.options import TargetOptions
from ragcore.loadtest.figures import Figures
from ragcore.loadtest.ladder import LadderOptions, climb


def run(*, quick: bool, target: TargetOptions, ladder: LadderOptions) -> Figures:
    """Run each level in turn, then a steady load to measure memory."""

    async def body() -> Figures:
        async with aimed(target) as aim:
            return await climb(aim, ladder, quick=quick)

    return anyio.run(body)

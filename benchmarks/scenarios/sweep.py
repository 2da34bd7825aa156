"""Runs the sweep of `ragcore.loadtest` with a service or one of the benchmarks' own targets."""

from __future__ import annotations

import anyio

from benchmarks.targets.choice import aimed
from benchmarks.targets.options import TargetOptions
from ragcore.loadtest.figures import Figures
from ragcore.loadtest.load import Objective
from ragcore.loadtest.sweep import SweepOptions, find_highest


def run(*, quick: bool, target: TargetOptions, objective: Objective, sweep: SweepOptions) -> Figures:
    """Send questions with Poisson arrivals at each rate."""

    async def body() -> Figures:
        async with aimed(target) as aim:
            return await find_highest(aim, sweep, objective, quick=quick)

    return anyio.run(body)

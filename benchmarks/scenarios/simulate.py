"""Simulates thousands of worlds. Each runs the whole client in virtual time; a seed determines everything, and all invariants are checked."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from typing import Annotated, Literal

import typer

from ragcore.loadtest.figures import Figures, say
from ragcore.testing import simulate, traffic

# Number of seeds in one task of a process.
BLOCK = 50
SHOWN = 3


def run(
    *,
    quick: bool,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.", show_default="10,000")] = None,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
    backend: Annotated[Literal["asyncio", "trio"], typer.Option(help="Backend of the event loop.")] = "asyncio",
) -> Figures:
    """Simulate a world for each seed, on all cores."""
    count = seeds or (500 if quick else 10_000)
    blocks = [
        (backend, range(start, min(start + BLOCK, first + count))) for start in range(first, first + count, BLOCK)
    ]
    began = time.perf_counter()
    calls, failures = 0, []
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for number, (block_calls, block_failures) in enumerate(pool.imap_unordered(_block, blocks), 1):
            calls += block_calls
            failures += block_failures
            if number % 20 == 0:
                say(f"{min(number * BLOCK, count):,} of {count:,} seeds, {len(failures)} failed")
    for seed, message in sorted(failures)[:SHOWN]:
        replay = f"python -m benchmarks simulate --seeds 1 --first {seed} --backend {backend}"
        print(f"{message}\nreplay: {replay}\n", file=sys.stderr)
    figures = Figures()
    figures.values.update(seeds=count, calls=calls, violations=len(failures), seconds=time.perf_counter() - began)
    figures.expect(not failures, "violations == 0")
    return figures


def _block(told: tuple[str, range]) -> tuple[int, list[tuple[int, str]]]:
    backend, seeds = told
    calls, failures = 0, []
    for seed in seeds:
        try:
            calls += simulate(traffic, seeds=[seed], backend=backend)  # type: ignore[arg-type]
        except Exception as error:
            failures.append((seed, "\n".join((f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())))))
    return calls, failures

"""Asks more questions than the model can answer.

Compares the number of good answers with that of a scheduler that knows the future. Measures how fast the other calls are refused, whether the stated
reason is true, and how one tenant's crowd or failures affect other tenants.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer
from tests.support.crowded import Crowded, crowded
from tests.support.edge import edge_figures
from tests.support.elsewhere import elsewhere
from tests.support.neighbours import poison_ratio, quiet_ratio
from tests.support.overload import BACK_AFTER, LOADS, Asked, Cell, Outcome, grid, is_false, run_cell

from benchmarks.heat_map import heat_map
from ragcore.loadtest.driving.monitor import driving
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.figures import Chart, Figures, Line, Table, Value, say

LEAST_RATIO = 0.9
MOST_SHED_MS = 50.0
MOST_QUIET_RATIO = 2.0
LEAST_POISON_RATIO = 0.95
CROWDS = (1, 200, 2_000)
# For the run over real sockets: the number of cells, which are drawn from a seed; limits on requests and answers per second; seconds of each cell.
REAL_CELLS = 24
MOST_REQUESTS, MOST_ANSWERS = 300.0, 80.0
REAL_SECONDS = 6.0
# The number of tokens of the answer after the first one. The service time is spread over them.
TOKENS = 8
TEXT = "Your deductible is $1,500 per calendar year, see [1]."
# Number of cells of the virtual grid with --quick.
QUICK_CELLS, QUICK_QUESTIONS = 60, 3_000
# If the driver or the client has a larger lag than this in ms, the run is invalid, because it measures its own delay.
MOST_LAG = MOST_SHED_MS / 2


def run(
    *,
    quick: bool,
    orders: Annotated[
        bool, typer.Option(help="Also compare ragcore's order with the earliest deadline first, with spread services.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Also draw the grid into this SVG file.")] = None,
    edge: Annotated[
        bool,
        typer.Option(help="Measure ragcore serve instead: a quiet tenant next to a greedy one."),
    ] = False,
) -> Figures:
    """Run the grid in virtual time, 24 cells over real sockets, a quiet tenant next to crowds of 1, 200 and 2,000 loops, and a tenant that fails."""
    if edge:
        return anyio.run(partial(edge_figures, quick=quick))
    figures = Figures()
    outcomes = _virtual(_chosen(quick), figures)
    real = anyio.run(_real, real_cells(3 if quick else REAL_CELLS), figures)
    figures.values["goodput_ratio_min"] = worst = min(one.ratio for one in (*outcomes, *real))
    figures.values["goodput_ratio_min_virtual"] = min(one.ratio for one in outcomes)
    figures.values["goodput_ratio_min_real"] = min(one.ratio for one in real)
    figures.values["goodput_ratio_median"] = statistics.median(one.ratio for one in (*outcomes, *real))
    figures.values["shed_p99_ms"] = shed = max(_p99_ms(outcomes), _p99_ms(real))
    figures.values["shed_p99_ms_real"] = _p99_ms(real)
    false = [reason for one in (*outcomes, *real) for reason in one.false]
    figures.values["false_reasons"] = len(false)
    figures.notes += [f"false: {reason}" for reason in sorted(set(false))[:5]]
    say("a quiet tenant next to a crowd, and a tenant that fails …")
    figures.values["quiet_tenant_ratio"] = quiet = max(quiet_ratio(loops) for loops in CROWDS[: 2 if quick else None])
    figures.values["poison_ratio"] = poison = min(poison_ratio(stage, quick=quick) for stage in ("embed", "generate"))
    figures.expect(worst >= LEAST_RATIO, f"goodput_ratio_min >= {LEAST_RATIO:g}")
    figures.expect(shed < MOST_SHED_MS, f"shed_p99_ms < {MOST_SHED_MS:g}")
    figures.expect(not false, "false_reasons == 0")
    figures.expect(quiet <= MOST_QUIET_RATIO, f"quiet_tenant_ratio <= {MOST_QUIET_RATIO:g}")
    figures.expect(poison >= LEAST_POISON_RATIO, f"poison_ratio >= {LEAST_POISON_RATIO:g}")
    _show(outcomes, real, figures)
    if picture is not None:
        picture.write_text(_drawn(outcomes))
    if orders:
        _compare_orders(figures, quick=quick)
    return figures


def _chosen(quick: bool) -> list[Cell]:
    cells = [cell for cell in grid() if not cell.why_not]
    if not quick:
        return cells
    small = [cell for cell in cells if cell.questions_per_second * cell.seconds <= QUICK_QUESTIONS]
    return random.Random(0).sample(small, QUICK_CELLS)


def _virtual(cells: Iterable[Cell], figures: Figures) -> list[Outcome]:
    # Run the longest cells first. Otherwise one process might run a long cell at the end while the others are idle.
    ordered = sorted(cells, key=lambda cell: -cell.questions_per_second * cell.seconds)
    outcomes = []
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for number, outcome in enumerate(pool.imap_unordered(run_cell, ordered), 1):
            outcomes.append(outcome)
            if number % 50 == 0:
                say(f"{number} of {len(ordered)} cells in virtual time")
    left_out = {cell.why_not for cell in grid() if cell.why_not}
    figures.values["virtual_cells"] = len(outcomes)
    figures.notes += [f"left out: cells in which {why}" for why in sorted(left_out)]
    return outcomes


def real_cells(count: int) -> list[Cell]:
    """Draw cells for real sockets from a seed."""
    draw = random.Random(14)
    cells: list[Cell] = []
    while len(cells) < count:
        slots = draw.choice((1, 4, 16))
        cell = Cell(
            slots=slots,
            service=round(draw.uniform(0.05, 0.5), 3),
            queue=draw.choice((slots, 256)),
            timeout=draw.choice((2.0, 5.0)),
            load=draw.choice(LOADS),
            loop=draw.choice(("open", "closed")),
            seed=len(cells),
        )
        asks = cell.rate if cell.loop == "open" else cell.callers / BACK_AFTER
        if asks <= MOST_REQUESTS and slots / cell.service <= MOST_ANSWERS and not cell.why_not:
            cells.append(cell)
    return cells


async def _real(cells: Sequence[Cell], figures: Figures) -> list[Outcome]:
    outcomes = []
    async with (
        elsewhere(model={"text": TEXT}) as servers,
        crowded(servers.addresses) as client,
        driving(shared=False) as own,
    ):
        for number, cell in enumerate(cells, 1):
            first = cell.first * cell.service
            await servers.model(slots=cell.slots, first_token=first, token=(cell.service - first) / TOKENS)
            # Use the real time of an answer, including the network, so that the ideal scheduler has the same service time.
            cell = replace(cell, service=await client.cell(cell), given_seconds=REAL_SECONDS)
            outcomes.append(Outcome.of(cell, await _ask_real(client, cell)))
            say(f"{number} of {len(cells)} cells over sockets: {outcomes[-1].ratio:.2f}")
    if own.lag_p99 > MOST_LAG / 1000:
        figures.invalid.append(f"driver lag p99 was {1000 * own.lag_p99:.0f} ms: the machine is too busy")
    return outcomes


async def _ask_real(client: Crowded, cell: Cell) -> list[Asked]:
    began = anyio.current_time()
    end = began + REAL_SECONDS
    asked: list[Asked] = []

    async def ask(due: float) -> Asked:
        one = Asked(due - began, cell.service)
        asked.append(one)
        one.ending, reason = await client.ask("member", cell.timeout)
        one.took = anyio.current_time() - due
        if one.ending == "shed":
            hopeless = max(0.0, cell.timeout - cell.reserve - cell.service)
            one.late = max(0.0, one.took - hopeless)
            one.false = is_false(reason, cell, one.took)
        elif reason:
            one.false = reason
        return one

    async def loop() -> None:
        while anyio.current_time() < end:
            if (await ask(anyio.current_time())).ending == "shed":
                await anyio.sleep(BACK_AFTER)

    async with anyio.create_task_group() as group:
        if cell.loop == "closed":
            for _ in range(cell.callers):
                group.start_soon(loop)
        else:
            draw = random.Random(f"{cell.seed}:arrivals")
            due = began + draw.expovariate(cell.rate)
            while due < end:
                await anyio.sleep_until(due)
                group.start_soon(ask, due)
                due += draw.expovariate(cell.rate)
    return asked


def _p99_ms(outcomes: Iterable[Outcome]) -> float:
    late = [seconds for one in outcomes for seconds in one.late]
    return 1000 * percentile(late, 0.99) if late else 0.0


def _show(outcomes: Sequence[Outcome], real: Sequence[Outcome], figures: Figures) -> None:
    """Show a row for each shape and a column for each load, then each cell over sockets."""
    rows: dict[tuple[object, ...], dict[str, Value]] = {}
    order = {cell: number for number, cell in enumerate(grid())}
    for one in sorted(outcomes, key=lambda one: order[one.cell]):
        cell = one.cell
        shape = (cell.slots, cell.service, cell.first, cell.queue, cell.timeout, cell.loop)
        row = rows.setdefault(
            shape,
            {
                "slots": cell.slots,
                "service s": cell.service,
                "first token": f"{cell.first:.0%}",
                "queue": cell.queue,
                "timeout s": cell.timeout,
                "loop": cell.loop,
            },
        )
        row[f"{cell.load:g} ×"] = round(one.ratio, 3)
    figures.tables.append(
        Table("Good answers compared with the best possible, in virtual time, by load", list(rows.values()))
    )
    figures.tables.append(
        Table(
            "The same over real sockets",
            [
                {
                    "slots": one.cell.slots,
                    "service s": one.cell.service,
                    "queue": one.cell.queue,
                    "timeout s": one.cell.timeout,
                    "load": one.cell.load,
                    "loop": one.cell.loop,
                    "asked": one.asked,
                    "good": one.good,
                    "best": one.best,
                    "ratio": round(one.ratio, 3),
                }
                for one in real
            ],
        )
    )
    worst = {load: min((one.ratio for one in outcomes if one.cell.load == load), default=1.0) for load in LOADS}
    figures.charts.append(
        Chart(
            "The worst cell at each load",
            "load, times the capacity",
            "good answers compared with the best possible",
            [Line("virtual time", list(worst), list(worst.values()))],
            log="x",
        )
    )


def _drawn(outcomes: Sequence[Outcome]) -> str:
    """Return an SVG with the worst ratio for each combination of slots, service time and load."""
    worst: dict[tuple[int, float, float], dict[float, float]] = {}
    for one in outcomes:
        by_load = worst.setdefault((one.cell.slots, one.cell.service, one.cell.first), {})
        by_load[one.cell.load] = min(one.ratio, by_load.get(one.cell.load, 1.0))
    rows = {
        f"{slots} × {service:g} s" + (", first token last" if first == 1 else ""): [by_load.get(load) for load in LOADS]
        for (slots, service, first), by_load in sorted(worst.items())
    }
    return heat_map(
        "Good answers compared with the best possible, the worst of eight cells",
        [f"{load:g} ×" for load in LOADS],
        rows,
        columns_are="load, as a multiple of the model's capacity",
        rows_are="slots × seconds for an answer",
    )


def _compare_orders(figures: Figures, *, quick: bool) -> None:
    """Compare the worst and the median cell of both orders, with constant and with spread service times."""
    shapes = [
        cell
        for cell in grid()
        if not cell.why_not and cell.load >= 1 and cell.questions_per_second * cell.seconds <= 20_000
    ]
    shapes = random.Random(1).sample(shapes, 24 if quick else 120)
    rows: list[dict[str, Value]] = []
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for spread in (0.0, 0.3):
            for name in ("adaptive", "deadline"):
                found = pool.map(run_cell, [replace(cell, spread=spread, order=name) for cell in shapes])
                ratios = [one.ratio for one in found]
                figures.values[f"worst_{name}_{'spread' if spread else 'constant'}"] = min(ratios)
                rows.append(
                    {
                        "service": "constant" if not spread else f"±{spread:.0%}",
                        "order": "ragcore's" if name == "adaptive" else "earliest deadline first",
                        "worst": round(min(ratios), 3),
                        "median": round(statistics.median(ratios), 3),
                        "p5": round(percentile(ratios, 0.05), 3),
                    }
                )
    figures.tables.append(Table("Two orders", rows))

"""Finds the highest rate of questions that meets an objective: doubles the rate until the objective is missed, then halves the interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import anyio
import typer

from ragcore.errors import InvalidInput
from ragcore.loadtest.driving.driver import Driver
from ragcore.loadtest.driving.monitor import driving
from ragcore.loadtest.driving.progress import Watching, watching
from ragcore.loadtest.figures import Chart, Figures, Line, Table, Value
from ragcore.loadtest.load import Objective, measure
from ragcore.loadtest.target import Aim
from ragcore.loadtest.words import percent

__all__ = ["SweepOptions", "find_highest"]

MOST_RATE = 4096.0
# Seconds between steps, so that unfinished questions of one step don't slow the next step.
PAUSE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """The rates and the length of each step."""

    start: Annotated[float, typer.Option(help="First rate, in questions per second.")] = 8.0
    seconds: Annotated[float | None, typer.Option(help="Seconds of each step.", show_default="15")] = None
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps that halve the interval after the first rate that misses the objective.", show_default="4"
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of the random arrivals.")] = 0

    def __post_init__(self) -> None:
        if self.start <= 0:
            raise InvalidInput("--start must be positive")


async def find_highest(aim: Aim, options: SweepOptions, objective: Objective, *, quick: bool = False) -> Figures:
    """Measure rates with Poisson arrivals until the highest rate that meets the objective is found.

    Args:
        quick: use smaller defaults for the number and the length of the steps.
    """
    each, halvings = options.seconds or (2.0 if quick else 15.0), options.steps or (2 if quick else 4)
    sweep = _Sweep(objective, seconds=each, halvings=halvings, seed=options.seed)
    figures = await sweep.run(aim, options.start)
    highest = float(figures.values["highest_rate"] or 0)
    figures.expect(
        highest > 0,
        f"highest rate with {percent(objective.slo_share)} {objective.words()}: {highest:g} per second (at least {options.start:g})",
    )
    return figures


class _Sweep:
    def __init__(self, objective: Objective, *, seconds: float, halvings: int, seed: int) -> None:
        self._objective = objective
        self._seconds = seconds
        self._halvings = halvings
        self._seed = seed
        self._rows: list[dict[str, Value]] = []
        self._figures = Figures()

    async def run(self, aim: Aim, start: float) -> Figures:
        figures = self._figures
        with watching() as watched:
            driver = Driver.of(aim, on_outcome=watched.count)
            await driver.at_once(1, each=3, phase="warm-up")
            met, missed = 0.0, start
            while missed <= MOST_RATE and await self._meets(driver, missed, watched, shared=aim.shared):
                met, missed = missed, missed * 2
            for _ in range(self._halvings if met else 0):
                middle = (met + missed) / 2
                if await self._meets(driver, middle, watched, shared=aim.shared):
                    met = middle
                else:
                    missed = middle
        at_best = next((row for row in self._rows if row["rate"] == met), None)
        figures.values |= {"highest_rate": met, "goodput": at_best["goodput"] if at_best else 0.0}
        figures.values |= {f"at_highest.{name}": value for name, value in (at_best or {}).items() if name != "rate"}
        figures.outcomes = driver.outcomes
        figures.settings |= {"target": aim.target.name, "seed": self._seed, **asdict(self._objective)}
        self._rows.sort(key=lambda row: float(row["rate"] or 0))
        figures.tables.append(Table("By rate", self._rows))
        figures.charts.append(self._chart())
        return figures

    async def _meets(self, driver: Driver, rate: float, watched: Watching, *, shared: bool) -> bool:
        watched.phase(f"{rate:g} per second", int(rate * self._seconds))
        async with driving(shared=shared) as own:
            outcomes = await driver.at_rate(
                rate, seconds=self._seconds, phase=f"rate {rate:g}", spacing="poisson", seed=self._seed
            )
        found = measure([outcomes], self._objective, own, seconds=self._seconds, open_loop=True)
        names = ("asked", "goodput", "slo_share", "p50_s", "p95_s", "p99_s", "hung", "lateness_p99_ms", "driver_cpu")
        met = float(found.values["slo_share"] or 0) >= self._objective.slo_share and not found.values["hung"]
        verdict = "met" if met else "missed"
        if found.invalid and len(self._rows) == 0:
            self._figures.invalid += found.invalid
        if found.invalid:
            verdict = "the driver's limit"
            self._figures.notes.append(f"at {rate:g} per second: {found.invalid[0]}")
        self._rows.append({"rate": rate, "objective": verdict, **{name: found.values.get(name) for name in names}})
        await anyio.sleep(PAUSE)
        return met and not found.invalid

    def _chart(self) -> Chart:
        rates = [float(row["rate"] or 0) for row in self._rows]
        lines = [
            Line(name, rates, [float(row[f"{name}_s"] or 0) for row in self._rows]) for name in ("p50", "p95", "p99")
        ]
        return Chart("Response time by rate", "questions per second", "seconds", lines, log="x")

"""`ragcore loadtest`: tests a running service by its URL. It uses neither the configuration nor a database."""

from __future__ import annotations

import anyio
import typer

from ragcore.loadtest.command import EXIT_CODES, compare_command, scenario_command
from ragcore.loadtest.figures import Figures
from ragcore.loadtest.ladder import LadderOptions, climb
from ragcore.loadtest.load import LoadOptions, Objective, put
from ragcore.loadtest.options import ServiceOptions
from ragcore.loadtest.sweep import SweepOptions, find_highest

__all__ = ["app"]

app = typer.Typer(
    help="Test a running service by its URL. Finds hangs and wrong answers, and measures the load that the service can handle.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _ladder(*, quick: bool, service: ServiceOptions, ladder: LadderOptions) -> Figures:
    async def body() -> Figures:
        async with service.service(service.url) as aim:
            return await climb(aim, ladder, quick=quick)

    return anyio.run(body)


def _load(*, quick: bool, service: ServiceOptions, load: LoadOptions, objective: Objective) -> Figures:
    async def body() -> Figures:
        async with service.service(service.url) as aim:
            return await put(aim, load, objective, quick=quick)

    return anyio.run(body)


def _sweep(*, quick: bool, service: ServiceOptions, sweep: SweepOptions, objective: Objective) -> Figures:
    async def body() -> Figures:
        async with service.service(service.url) as aim:
            return await find_highest(aim, sweep, objective, quick=quick)

    return anyio.run(body)


app.command("ladder", help="Ask 1, 2, 3, 5, … 200 questions at once: an acceptance test.")(
    scenario_command("ladder", _ladder)
)
app.command(
    "load",
    help="Ask at a rate, or as a number of users, for some time. Measures latency, time to the first token and goodput.",
)(scenario_command("load", _load))
app.command("sweep", help="Find the highest rate that meets an objective.")(scenario_command("sweep", _sweep))
app.command("compare")(compare_command)

"""Constant load: questions at a rate, or from a number of users. Latency counts from the moment at which a question should have been sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import anyio
import typer

from ragcore.errors import InvalidInput
from ragcore.loadtest.driving.driver import Driver
from ragcore.loadtest.driving.monitor import Driving, driving, monitored
from ragcore.loadtest.driving.outcome import Outcome
from ragcore.loadtest.driving.progress import watching
from ragcore.loadtest.driving.summary import row
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.figures import Chart, Figures, Line, Shade, Table, Value
from ragcore.loadtest.target import Aim, unchecked
from ragcore.loadtest.words import percent, seconds

__all__ = ["Disturbance", "LoadOptions", "Objective", "measure", "put"]

WARM_UP = "warm-up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A service level objective: at least this share of all questions gets a right answer within these times."""

    slo_seconds: Annotated[float, typer.Option(help="Objective: the whole answer comes within this many seconds.")] = (
        10.0
    )
    slo_first_token: Annotated[
        float, typer.Option(help="Objective: the first token comes within this many seconds.")
    ] = math.inf
    slo_share: Annotated[float, typer.Option(help="Objective: at least this share of questions meets both times.")] = (
        0.95
    )

    def words(self) -> str:
        """Return the objective in words: "right answers within 10 s"."""
        first = self.slo_first_token
        return f"right answers within {seconds(self.slo_seconds)}" + (
            "" if first == math.inf else f", first token within {seconds(first)}"
        )

    def met_by(self, outcome: Outcome) -> bool:
        """Return whether one question meets the objective."""
        first = outcome.first_token_seconds
        # An answer that was not streamed has no first token, so it does not meet the objective.
        in_time = self.slo_first_token == math.inf or (first is not None and first <= self.slo_first_token)
        return outcome.ok and in_time and outcome.seconds <= self.slo_seconds


class Disturbance(Protocol):
    """Disturbs the service while a load runs."""

    async def __call__(self, now: Callable[[], float], shades: list[Shade], /) -> None:
        """Disturb the service, and add each period of disturbance to `shades`. The call is cancelled when the load ends.

        Args:
            now: returns the seconds since the run began.
            shades: the periods of disturbance.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """The amount of load and its length."""

    rate: Annotated[float, typer.Option(help="Questions per second, in an open loop.")] = 5.0
    users: Annotated[int | None, typer.Option(help="Instead of a rate: users, each with one question at a time.")] = (
        None
    )
    arrivals: Annotated[
        Literal["poisson", "constant"], typer.Option(help="Spacing of the questions in an open loop: random or even.")
    ] = "poisson"
    seconds: Annotated[float | None, typer.Option(help="Seconds of each repeat.", show_default="20")] = None
    warm_up: Annotated[float, typer.Option(help="Seconds of load before the first repeat; not counted.")] = 3.0
    repeats: Annotated[
        int | None, typer.Option(help="Repeats of the load, to measure the spread.", show_default="3")
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of the random arrivals.")] = 0

    def __post_init__(self) -> None:
        if self.rate <= 0 or (self.users is not None and self.users < 1) or (self.seconds or 1) <= 0:
            raise InvalidInput("--rate, --users and --seconds must be positive")

    def plan(self, *, quick: bool) -> tuple[float, int]:
        """Return the seconds of each repeat and the number of repeats."""
        return self.seconds or (6.0 if quick else 20.0), self.repeats or (2 if quick else 3)


async def put(
    aim: Aim, options: LoadOptions, objective: Objective, *, quick: bool = False, disturb: Disturbance | None = None
) -> Figures:
    """Warm up, then put the same load on the target several times.

    Args:
        quick: use smaller defaults for the number and the length of the repeats.
        disturb: runs at the same time as the measured repeats.
    """
    length, repeats = options.plan(quick=quick)
    load = _Load(
        rate=options.rate,
        users=options.users,
        spacing=options.arrivals,
        seconds=length,
        warm_up=options.warm_up,
        repeats=repeats,
        seed=options.seed,
    )
    figures = await _run(aim, load, objective, disturb)
    share = float(figures.values["slo_share"] or 0)
    figures.expect(
        share >= objective.slo_share, f"{objective.words()}: {percent(share)} (at least {percent(objective.slo_share)})"
    )
    hung, asked = figures.values["hung"], figures.values.get("asked", 0)
    figures.expect(hung == 0, f"no hang: {hung or 'none'} of {asked}")
    return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    rate: float
    users: int | None
    spacing: Literal["poisson", "constant"]
    seconds: float
    warm_up: float
    repeats: int
    seed: int

    async def send(self, driver: Driver, *, seconds: float, phase: str, seed: int) -> list[Outcome]:
        if self.users is not None:
            return await driver.users(self.users, seconds=seconds, phase=phase)
        return await driver.at_rate(self.rate, seconds=seconds, phase=phase, spacing=self.spacing, seed=seed)


async def _run(aim: Aim, load: _Load, objective: Objective, disturb: Disturbance | None) -> Figures:
    with watching() as watched:
        driver = Driver.of(aim, on_outcome=watched.count)
        watched.phase(WARM_UP)
        await load.send(driver, seconds=load.warm_up, phase=WARM_UP, seed=load.seed - 1)
        shades: list[Shade] = []
        async with (
            driving(shared=aim.shared) as own,
            monitored(aim.pid or 0, now=driver.now, asked=lambda: len(driver.outcomes)) as samples,
            anyio.create_task_group() as group,
        ):
            if disturb is not None:
                group.start_soon(disturb, driver.now, shades)
            parts = []
            for number in range(load.repeats):
                name = f"repeat {number + 1}"
                watched.phase(name)
                parts.append(await load.send(driver, seconds=load.seconds, phase=name, seed=load.seed + number))
            group.cancel_scope.cancel()
    figures = measure(parts, objective, own, seconds=load.seconds, open_loop=load.users is None)
    figures.outcomes, figures.samples = driver.outcomes, samples
    figures.settings |= {"target": aim.target.name, "seed": load.seed}
    figures.notes += unchecked(aim.questions)
    figures.charts += _charts([one for part in parts for one in part], shades)
    memory = [(sample.at, sample.rss_mb) for sample in samples if sample.rss_mb is not None]
    if memory:
        line = Line("", *zip(*memory, strict=True))
        figures.charts.append(Chart("Memory of the target", "seconds since the run began", "MB", [line], shades=shades))
    return figures


def measure(
    parts: Sequence[list[Outcome]], objective: Objective, own: Driving, *, seconds: float, open_loop: bool
) -> Figures:
    """Compute the figures of one load from its repeats."""
    figures = Figures()
    outcomes = [one for part in parts for one in part]
    if not outcomes:
        figures.invalid.append("no question was sent: the rate is too low for the time; raise --rate or --seconds")
        figures.values |= {"slo_share": 0.0, "hung": 0, "goodput": 0.0}
        return figures
    first = [value for one in outcomes if (value := one.first_token_seconds) is not None]
    between = [value for one in outcomes if (value := one.between_tokens) is not None]
    pauses = [one.longest_pause for one in outcomes if one.longest_pause is not None]
    good = [sum(map(objective.met_by, part)) for part in parts]
    counted = row(outcomes)
    # A closed loop runs until its last answer, which may come long after the requested time.
    spans = [
        seconds if open_loop or not part else max(one.ended for one in part) - min(one.started for one in part)
        for part in parts
    ]
    lateness = percentile([one.started - one.due for one in outcomes], 0.99)
    figures.values |= {
        "asked": len(outcomes),
        "sent_per_s": len(outcomes) / sum(spans),
        "goodput": sum(good) / sum(spans),
        "slo_share": sum(good) / len(outcomes),
        "success_rate": sum(one.ok for one in outcomes) / len(outcomes),
        **{name: counted[name] for name in ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "max_s")},
        "hung": counted["hung"],
        "wrong": sum(one.kind in ("wrong", "apology") for one in outcomes),
        "degraded": counted["degraded"],
        **{
            f"errors.{kind}": counted[kind] for kind in ("timeout", "connection", "http", "protocol", "refused", "late")
        },
        **{f"first_token_p{share}_s": percentile(first, share / 100) for share in (50, 95, 99) if first},
        **{f"between_tokens_p{share}_ms": 1000 * percentile(between, share / 100) for share in (50, 99) if between},
        **{f"longest_pause_p{share}_s": percentile(pauses, share / 100) for share in (50, 99) if pauses},
        "tokens_per_s": sum(one.tokens for one in outcomes) / sum(spans),
        "lateness_p99_ms": 1000 * lateness,
        "driver_lag_p99_ms": 1000 * own.lag_p99,
        "driver_cpu": own.cpu,
    }
    medians = [percentile([one.seconds for one in part], 0.5) for part in parts if part]
    if len(medians) > 1:
        figures.values["p50_spread"] = (max(medians) - min(medians)) / _median(figures)
    # In a closed loop, a question is due as soon as its user is ready, so it is never sent late.
    reason = own.judge(_median(figures), lateness=lateness if open_loop else 0.0, open_loop=open_loop)
    if reason is not None and figures.values["success_rate"]:  # if no question succeeds, driver lag doesn't matter
        figures.invalid.append(reason)
    figures.tables.append(
        Table(
            "By repeat",
            [{"repeat": number, "good": good[number - 1], **row(part)} for number, part in enumerate(parts, 1)],
        )
    )
    return figures


def _median(figures: Figures) -> float:
    """Return the median latency in seconds; NaN if there is none."""
    value: Value = figures.values["p50_s"]
    return value if isinstance(value, float) else math.nan


def _charts(outcomes: Sequence[Outcome], shades: Sequence[Shade]) -> list[Chart]:
    kinds = dict.fromkeys(one.kind for one in outcomes)
    over_time = [
        Line(kind, *zip(*((one.due, one.seconds) for one in outcomes if one.kind == kind), strict=True))
        for kind in kinds
    ]
    shares = [number / 200 for number in range(201)]
    waits = [Line("whole answer", *_distribution([one.seconds for one in outcomes], shares))]
    first = [value for one in outcomes if (value := one.first_token_seconds) is not None]
    if first:
        waits.append(Line("first token", *_distribution(first, shares)))
    return [
        Chart(
            "Response time over the run",
            "seconds since the run began",
            "seconds",
            over_time,
            points=True,
            shades=shades,
        ),
        Chart("Waiting time by share of the questions", "% of the questions", "seconds", waits),
    ]


def _distribution(values: Sequence[float], shares: Sequence[float]) -> tuple[list[float], list[float]]:
    return [100 * share for share in shares], [percentile(values, share) for share in shares]

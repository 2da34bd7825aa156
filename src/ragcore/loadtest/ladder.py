"""An acceptance test for a service that must not hang. It asks more and more questions at once.

Success is judged by content: a right answer contains the fact of its question. Apologies with status 200, wrong answers and degraded answers are
counted separately.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import typer

from ragcore.errors import InvalidInput
from ragcore.loadtest.driving.driver import Driver
from ragcore.loadtest.driving.monitor import Driving, Sample, driving, monitored
from ragcore.loadtest.driving.outcome import Outcome
from ragcore.loadtest.driving.progress import Watching, watching
from ragcore.loadtest.driving.summary import row
from ragcore.loadtest.estimates import percentile, slope
from ragcore.loadtest.figures import Chart, Figures, Line, Table
from ragcore.loadtest.target import Aim, unchecked
from ragcore.loadtest.words import percent, seconds

__all__ = ["LadderOptions", "climb"]

LEVELS = "1,2,3,5,10,20,50,100,200"
WARM_UP = 5
STEADY_USERS = 10
STEADY = "steady"
# HTTP statuses of a request that is wrong itself.
WRONG_REQUEST = frozenset({400, 401, 403, 404, 405, 406, 415, 422})
# If more than this share of a level's questions hang, the run ends: higher levels would only wait longer.
GIVE_UP = 0.5
HALF = 0.5
ENOUGH = 20
INVALID_SHARE = 0.05
# Each level and the steady load, with the outcomes of its questions.
Asked: TypeAlias = Sequence[tuple[int, list[Outcome]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderOptions:
    """The levels and the criteria of the run."""

    levels: Annotated[str, typer.Option(help="Numbers of questions at once, separated by commas.")] = LEVELS
    each: Annotated[int, typer.Option(help="Questions that each user asks, one after the other.", show_default="3")] = 0
    steady_seconds: Annotated[
        float, typer.Option(help="Seconds of steady load, to measure memory.", show_default="25")
    ] = 0.0
    no_hang_from: Annotated[int, typer.Option(help="Criterion: no hang with this many questions at once or more.")] = 5
    min_success: Annotated[float, typer.Option(help="Criterion: the success rate is above this share.")] = 0.95
    max_seconds: Annotated[float, typer.Option(help="Criterion: every answer takes fewer seconds than this.")] = 30.0
    max_growth_kb: Annotated[
        float, typer.Option(help="Criterion: memory grows by at most this many kB per question.")
    ] = 64.0

    def __post_init__(self) -> None:
        if self.steps[0] < 1:
            raise InvalidInput("every level of --levels must be at least 1")
        if self.each < 0 or self.steady_seconds < 0:
            raise InvalidInput("--each and --steady-seconds can't be negative")

    @property
    def steps(self) -> list[int]:
        """The levels, lowest first.

        Raises:
            InvalidInput: a level is not a whole number.
        """
        try:
            return sorted({int(level) for level in self.levels.split(",")})
        except ValueError:
            raise InvalidInput(f"--levels must be whole numbers separated by commas, not {self.levels!r}") from None


async def climb(aim: Aim, options: LadderOptions, *, quick: bool = False) -> Figures:
    """Ask at each level in turn, then run a steady load to measure memory.

    Args:
        quick: use smaller defaults for the number of questions and the length of the steady load.
    """
    each = options.each or (1 if quick else 3)
    ladder = _Ladder(options.steps, each, options.steady_seconds or (6.0 if quick else 25.0), options.max_seconds)
    figures = await ladder.climb(aim)
    _judge(figures, ladder, options, aim)
    return figures


def _judge(figures: Figures, ladder: _Ladder, options: LadderOptions, aim: Aim) -> None:
    least = options.no_hang_from
    untried = [level for level in options.steps if level not in ladder.climbed]
    _judge_hangs(figures, ladder.asked(), [level for level in untried if level >= least], least)
    if not any(level >= least for level in options.steps):
        figures.notes.append(f"no level has {least} or more questions at once: raise --levels, or lower --no-hang-from")
    success = float(figures.values["success_rate"] or 0)
    figures.expect(
        success > options.min_success or success == 1,
        f"success {percent(success)} (more than {percent(options.min_success)})",
    )
    _judge_levels(figures, ladder.asked(), options.min_success)
    slowest = float(figures.values["max_s"] or math.inf)
    figures.expect(
        slowest < options.max_seconds,
        f"slowest answer {seconds(slowest)} (less than {seconds(options.max_seconds)})",
    )
    growth = figures.values["rss_growth_kb_per_question_low"]
    if isinstance(growth, float) and math.isfinite(growth):
        figures.expect(
            growth <= options.max_growth_kb,
            f"memory growth at least {max(growth, 0.0):.3g} kB per question (at most {options.max_growth_kb:g} kB)",
        )
    elif aim.memory_required:
        figures.invalid.append(f"cannot measure the memory of process {aim.pid}: check --pid")
    elif not untried:
        figures.notes.append(
            "memory was not measured: if the service runs on this machine, pass its process id with --pid"
        )


def _judge_hangs(figures: Figures, asked: Asked, untried: Sequence[int], least: int) -> None:
    those = [one for level, some in asked if level >= least for one in some]
    hung = sum(one.kind == "hung" for one in those)
    measured = f"{hung:,} of {len(those):,} hung" if hung else f"none of {len(those):,}"
    if untried:
        measured += f"; not tried at {', '.join(map(str, untried))}, because most questions hung before"
    figures.expect(not hung and not untried, f"no hang at {least} or more at once: {measured}")


def _judge_levels(figures: Figures, asked: Asked, least: float) -> None:
    """Add a criterion for each level whose success rate is too low. If there is none, add one criterion that shows the level with the lowest rate."""
    # At a level with few questions, a few failures can be chance. If half of the questions fail, it is not chance.
    bounds = {number: least if len(those) >= ENOUGH else HALF for number, (_, those) in enumerate(asked)}
    shares = {number: sum(one.ok for one in those) / len(those) for number, (_, those) in enumerate(asked)}
    missed = [number for number, share in shares.items() if share <= bounds[number] and share < 1]
    lowest = min(shares, key=lambda number: (shares[number], -len(asked[number][1])))
    for number in missed or [lowest]:
        level, those = asked[number]
        where = f"{level} at once" if those[0].phase != STEADY else f"the steady load of {level} at once"
        where = f"success at {where}:" if missed else f"success at every level, the lowest at {where}:"
        figures.expect(
            not missed,
            f"{where} {percent(shares[number])} of {len(those):,} (more than {percent(bounds[number])})",
        )


class _Ladder:
    def __init__(self, levels: list[int], each: int, steady_seconds: float, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._levels = levels
        self._each = each
        self._steady_seconds = steady_seconds
        self.climbed: dict[int, list[Outcome]] = {}
        self.steady: list[Outcome] = []
        self.refusal = ""

    def asked(self) -> list[tuple[int, list[Outcome]]]:
        """Each level and the steady load, with the outcomes of its questions."""
        return [(level, those) for level, those in (*self.climbed.items(), (STEADY_USERS, self.steady)) if those]

    async def climb(self, aim: Aim) -> Figures:
        with watching() as watched:
            driver = Driver.of(aim, on_outcome=watched.count)
            before = await aim.target.health()
            async with (
                driving(shared=aim.shared) as own,
                monitored(aim.pid or 0, now=driver.now, asked=lambda: len(driver.outcomes)) as samples,
            ):
                steady = await self._run(driver, watched)
            if self.refusal:  # raise here, because a task group would wrap the error
                raise InvalidInput(
                    f"none of the first {WARM_UP} questions was accepted: {self.refusal}; check --url, --token-env and the options of the body"
                )
            after = await aim.target.health()
        figures = self._figures(aim, driver, samples, own, steady)
        for when, health in (("before", before), ("after", after)):
            if health is not None:
                status = health.get("status")
                figures.notes.append(f"health {when}: {status if isinstance(status, str) else 'without a status'}")
        return figures

    async def _run(self, driver: Driver, watched: Watching) -> tuple[float, float]:
        """Run all levels and the steady load. Return the times at which the steady load began and ended."""
        watched.phase("warm-up", WARM_UP)
        warm_up: list[Outcome] = []
        for _ in range(WARM_UP):
            warm_up += await driver.at_once(1, each=1, phase="warm-up")
            if warm_up[-1].kind == "hung":
                break
        # The port is closed, or the path or the body is wrong: a longer run would only repeat this error.
        if all(outcome.kind == "connection" or outcome.status in WRONG_REQUEST for outcome in warm_up):
            self.refusal = warm_up[-1].detail
            return driver.now(), driver.now()
        for level in self._levels:
            watched.phase(f"{level} at once", level * self._each)
            self.climbed[level] = outcomes = await driver.at_once(level, each=self._each, phase=f"concurrency {level}")
            if sum(outcome.kind == "hung" for outcome in outcomes) > GIVE_UP * len(outcomes):
                return driver.now(), driver.now()
        watched.phase(f"{STEADY_USERS} at once, to measure memory")
        began = driver.now()
        self.steady = await driver.users(STEADY_USERS, seconds=self._steady_seconds, phase=STEADY)
        return began, driver.now()

    def _figures(
        self, aim: Aim, driver: Driver, samples: list[Sample], own: Driving, steady: tuple[float, float]
    ) -> Figures:
        outcomes = [one for _, those in self.asked() for one in those]
        counted = row(outcomes)
        figures = Figures(outcomes=driver.outcomes, samples=samples)
        whole = [level for level, those in self.climbed.items() if not any(one.kind == "hung" for one in those)]
        begin, end = steady
        resident = [(s.asked, s.rss_mb) for s in samples if begin <= s.at <= end and s.rss_mb is not None]
        growth = slope(resident) if len(resident) >= 6 and resident[-1][0] > resident[0][0] else None
        figures.values |= {
            "hung": counted["hung"],
            "wrong": sum(one.kind in ("wrong", "apology") for one in outcomes),
            "success_rate": sum(one.ok for one in outcomes) / len(outcomes),
            "max_s": counted["max_s"],
            "p50_s": counted["p50_s"],
            "p95_s": counted["p95_s"],
            "highest_concurrency": max(whole, default=0),
            "rss_growth_mb": resident[-1][1] - resident[0][1] if resident else None,
            "rss_growth_kb_per_question": None if growth is None else 1024 * growth.value,
            "rss_growth_kb_per_question_low": None if growth is None else 1024 * growth.low,
            "asked": len(outcomes),
            "degraded": counted["degraded"],
            **{
                f"errors.{kind}": counted[kind]
                for kind in ("timeout", "connection", "http", "protocol", "refused", "late")
            },
            "driver_lag_p99_ms": 1000 * own.lag_p99,
            "driver_cpu": own.cpu,
        }
        figures.settings = {"target": aim.target.name, "questions_each": self._each}
        untried = [level for level in self._levels if level not in self.climbed]
        if untried:
            figures.notes.append(
                f"not tried, because most questions hung before: {', '.join(map(str, untried))} at once, and the steady load for memory"
            )
        figures.notes += unchecked(aim.questions)
        bad = [one for one in outcomes if not one.ok]
        if len(bad) > HALF * len(outcomes):
            (detail, count), *_ = Counter(one.detail for one in bad).most_common(1)
            figures.notes.append(f"{count} of {len(outcomes)} questions: {detail}")
        # If no question succeeds, driver lag doesn't matter. A burst of 200 questions keeps the driver busy for a moment: a lag below 5 % of
        # --max-seconds is reported, but does not invalidate the run, because it can't change a verdict.
        reason = own.judge(float(counted["p50_s"] or 0))
        if reason is not None and figures.values["success_rate"]:
            late = own.lag_p99 > INVALID_SHARE * self._max_seconds
            (figures.invalid if late else figures.notes).append(reason)
        figures.tables.append(
            Table("By concurrency", [{"at once": level, **row(those)} for level, those in self.climbed.items()])
        )
        figures.charts += _charts(self.climbed, samples, driver.outcomes)
        return figures


def _charts(climbed: dict[int, list[Outcome]], samples: list[Sample], outcomes: list[Outcome]) -> list[Chart]:
    levels = list(climbed)
    waited = [[one.seconds for one in those] for those in climbed.values()]
    times = [
        Line(name, levels, [percentile(those, share) for those in waited])
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    ]
    rates = [
        len(those) / (max(one.ended for one in those) - min(one.started for one in those)) for those in climbed.values()
    ]
    at = [sample.at for sample in samples]
    charts = [
        Chart("Response time by concurrency", "questions at once", "seconds", times, log="x"),
        Chart(
            "Questions answered by concurrency", "questions at once", "per second", [Line("", levels, rates)], log="x"
        ),
        Chart(
            "Response time over the run",
            "seconds since the run began",
            "seconds",
            [
                Line(kind, *zip(*((one.due, one.seconds) for one in outcomes if one.kind == kind), strict=True))
                for kind in dict.fromkeys(one.kind for one in outcomes)
            ],
            points=True,
        ),
    ]
    if any(sample.rss_mb is not None for sample in samples):
        memory = [math.nan if sample.rss_mb is None else sample.rss_mb for sample in samples]
        cores = [math.nan if sample.cpu is None else sample.cpu for sample in samples]
        charts.append(
            Chart("Memory of the target over the run", "seconds since the run began", "MB", [Line("", at, memory)])
        )
        charts.append(
            Chart("Processor of the target over the run", "seconds since the run began", "cores", [Line("", at, cores)])
        )
    return charts

"""Measures how long a quiet tenant waits at `ragcore serve` while a greedy tenant sends as many requests as it can.

This process sends the questions of the quiet tenant. Four other processes run: the server, its PostgreSQL, the model server, and the greedy tenant (`hog`).
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import anyio
import anyio.abc
import psutil
from benchmarks.targets.library import client

from ragcore import Document
from ragcore.loadtest.driving.driver import Driver
from ragcore.loadtest.driving.monitor import Driving, Sample, driving, monitored, resident_mb
from ragcore.loadtest.driving.outcome import Outcome
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.figures import Chart, Figures, Line, Table, Value, say
from ragcore.loadtest.http import HttpOptions, http_target
from ragcore.loadtest.target import Question
from tests.support.bench import FACT, QUESTION
from tests.support.child import STOP_SECONDS
from tests.support.elsewhere import elsewhere
from tests.support.hog import BODIES, HOG, Hog, hog
from tests.support.servers import DIMENSION, Addresses

__all__ = ["MOST_GROWTH_MIB", "SERVICE", "Edge", "Load", "Measured", "edge_figures", "judge", "measure"]

QUIET = "quiet"
# Not secrets: only this machine can reach the server, and only during a run.
TOKENS = {tenant: f"token-of-{tenant}" for tenant in (QUIET, HOG)}
# The behaviour of the greedy tenant; "alone": it does nothing.
Setting: TypeAlias = Literal["alone", "similarity", "bodies", "full_bodies"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)
# Seconds for the model's answer, half of them to the first token. The time is short, so that it does not hide the server's own delays.
SERVICE, TEXT, LATER_TOKENS = 0.1, f"Your deductible is {FACT} per calendar year, see [1].", 8
# 500 × 20 chunks is the largest number of scores that a report reads, so these reports are as expensive as a report can be.
SECTIONS, DOCUMENTS = 500, 20
PAUSE, START_SECONDS = 1.0, 60.0
# Both tenants have no limits on calls and tokens a minute and on concurrent calls. With limits, calls would be refused before they reach the queues and
# bulkheads that are measured here.
NO_LIMITS = {f"RAGCORE_{name}": "0" for name in ("REQUESTS_PER_MINUTE", "TOKENS_PER_MINUTE", "CALLS_AT_ONCE")}
# Questions a second of the quiet tenant in the run with limits. This is less than the default limit of 120 a minute.
PACED = 1.5
# Other programs may use at most this many cores. On a machine with two cores, a larger use slows the server as much as the measured effects do.
MOST_FOREIGN = 0.15
# For each connection, uvicorn reads up to this many bytes before the application asks for them.
READ_AHEAD = 65_536
# The limit is a sum of three parts: one tenant's share of the memory for bodies (a quarter of 64 MiB), the bytes that are read ahead, and 32 MiB for two
# reports of 10,000 scores each and for memory that the allocator keeps. Without a share for each tenant, the server would hold 64 bodies at once.
MOST_GROWTH_MIB = 64 / 4 + BODIES * READ_AHEAD / 2**20 + 32


@dataclass(frozen=True, slots=True)
class Edge:
    """The address and the process of the server.

    Attributes:
        url: the server's URL, without a path.
        pid: the id of its process.
    """

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Load:
    """The load of a run.

    Attributes:
        rate: questions a second of the quiet tenant; every other one is streamed.
        seconds: length of each setting in each round.
        rounds: number of rounds; each begins with another setting.
        warm_up: seconds of warm-up, which don't count.
        settings: the settings of each round.
    """

    rate: float = 8.0
    # The server closes a refused connection after 10 s. This is longer, so that the next 400 connections are included.
    seconds: float = 15.0
    rounds: int = 4
    warm_up: float = 3.0
    settings: Sequence[Setting] = SETTINGS


@dataclass
class Measured:
    """The results of a run.

    Attributes:
        rounds: for each round, the quiet tenant's questions by setting.
        came: counts of the other tenant's outcomes, by setting.
        before_mib: resident memory of the server after the warm-up.
        peak_mib: peak resident memory, by setting.
        foreign: cores that other programs used in each round, by setting.
        samples: samples of the server's process.
        own: this process's own lag and load.
    """

    rounds: list[dict[Setting, list[Outcome]]] = field(default_factory=list)
    came: dict[Setting, Counter[str]] = field(default_factory=dict)
    before_mib: float = 0.0
    peak_mib: dict[Setting, float] = field(default_factory=dict)
    foreign: dict[Setting, list[float]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    own: Driving = field(default_factory=lambda: Driving(shared=False))

    @property
    def outcomes(self) -> list[Outcome]:
        """All questions of the quiet tenant."""
        return [one for part in self.rounds for outcomes in part.values() for one in outcomes]


class _Processors:
    """Measures the use of the machine's processors from its creation on."""

    def __init__(self) -> None:
        self._began = anyio.current_time()
        self._before = self._used()

    def foreign(self) -> float:
        """Return the cores that other programs used: the machine's total without this run and PostgreSQL."""
        (whole_before, before), (whole, now) = self._before, self._used()
        own = sum(seconds - before.get(pid, 0.0) for pid, seconds in now.items())
        return (whole - whole_before - own) / (anyio.current_time() - self._began)

    @staticmethod
    def _used() -> tuple[float, dict[int, float]]:
        """Return processor seconds of the whole machine and of each process of this run."""
        whole = psutil.cpu_times()
        own = psutil.Process()
        # PostgreSQL's server is not a child of this process, because it detaches itself at the start.
        postgres = [one for one in psutil.process_iter(["name"]) if one.info["name"] == "postgres"]
        seconds = {}
        for process in (own, *own.children(recursive=True), *postgres):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds[process.pid] = times.user + times.system
        return sum(whole) - whole.idle - getattr(whole, "iowait", 0.0), seconds


async def edge_figures(*, quick: bool) -> Figures:
    """Measure `ragcore serve` without limits for each tenant, and with them."""
    figures = Figures()
    load = Load(seconds=3.0, rounds=1) if quick else Load()
    model = {"text": TEXT, "first_token_latency": SERVICE / 2, "token_latency": SERVICE / 2 / LATER_TOKENS}
    async with elsewhere(model=model) as servers:
        await _fill(servers.addresses)
        say("without limits a minute …")
        async with _serving(servers.addresses, NO_LIMITS) as edge:
            judge(figures, await measure(edge, load))
        if not quick:
            say("with the default limits …")
            async with _serving(servers.addresses, {}) as edge:
                _tell_of_defaults(figures, await measure(edge, Load(rate=PACED, seconds=20.0, rounds=1)))
    return figures


async def measure(edge: Edge, load: Load) -> Measured:
    """Ask as the quiet tenant in each setting and round, and watch the server's memory."""
    found = Measured()
    chat = HttpOptions(url=f"{edge.url}/chat", token=TOKENS[QUIET])
    streamed = HttpOptions(url=f"{edge.url}/chat", token=TOKENS[QUIET], accept="text/event-stream")
    async with (
        http_target(chat) as plain,
        http_target(streamed) as stream,
        hog(edge.url, TOKENS[HOG]) as other,
        driving(shared=False) as found.own,
    ):
        drivers = [Driver(target, [Question(QUESTION, (FACT,))]) for target in (plain, stream)]
        await _ask(drivers, load, seconds=load.warm_up, phase="warm-up", seed=-1)
        found.before_mib = resident_mb(edge.pid) or 0.0
        # Request a report before the measurement, because the first report of a process also imports modules.
        async with other.busy("similarity", Counter()):
            await anyio.sleep(PAUSE)
        await anyio.sleep(PAUSE)
        async with monitored(
            edge.pid, now=drivers[0].now, asked=lambda: sum(len(driver.outcomes) for driver in drivers)
        ) as found.samples:
            for number in range(load.rounds):
                start = number % len(load.settings)
                part: dict[Setting, list[Outcome]] = {}
                for setting in (*load.settings[start:], *load.settings[:start]):
                    part[setting] = await _in_setting(drivers, load, setting, other, found, seed=number)
                found.rounds.append(part)
                say(
                    f"round {number + 1} of {load.rounds}: "
                    + ", ".join(f"{one} {_p95_ms(part[one]):.0f} ms" for one in part)
                )
    return found


async def _in_setting(
    drivers: Sequence[Driver], load: Load, setting: Setting, other: Hog, found: Measured, *, seed: int
) -> list[Outcome]:
    samples, processors = len(found.samples), _Processors()
    # Measure from the moment when the other tenant begins, because its first 400 connections are the worst.
    async with other.busy(setting, found.came.setdefault(setting, Counter())):
        # All settings of a round have the same arrivals.
        outcomes = await _ask(drivers, load, seconds=load.seconds, phase=setting, seed=seed)
    found.foreign.setdefault(setting, []).append(processors.foreign())
    peak = max((one.rss_mb or 0.0 for one in found.samples[samples:]), default=0.0)
    found.peak_mib[setting] = max(peak, found.peak_mib.get(setting, 0.0))
    await anyio.sleep(PAUSE)
    return outcomes


async def _ask(drivers: Sequence[Driver], load: Load, *, seconds: float, phase: str, seed: int) -> list[Outcome]:
    before = [len(driver.outcomes) for driver in drivers]
    async with anyio.create_task_group() as group:
        for number, driver in enumerate(drivers):
            rate = load.rate / len(drivers)
            group.start_soon(
                partial(driver.at_rate, rate, seconds=seconds, phase=phase, spacing="poisson", seed=2 * seed + number)
            )
    return [one for driver, asked in zip(drivers, before, strict=True) for one in driver.outcomes[asked:]]


def judge(figures: Figures, found: Measured) -> None:
    """Compute the figures and check their limits."""
    settings = list(found.rounds[0])
    for setting in settings:
        figures.values[f"edge_{setting}_p95_ms"] = statistics.median(_p95_ms(part[setting]) for part in found.rounds)
        figures.values[f"edge_{setting}_first_token_p95_ms"] = statistics.median(
            _first_p95_ms(part[setting]) for part in found.rounds
        )
    for setting in settings:
        if setting == "alone":
            continue
        # Compare only within a round, because the other load of the machine changes from minute to minute.
        both = [(_p95_ms(part[setting]), _p95_ms(part["alone"])) for part in found.rounds]
        figures.values[f"edge_{setting}_ratio"] = statistics.median(beside / alone for beside, alone in both)
        excess = statistics.median(beside - (2 * alone + 1000 * SERVICE) for beside, alone in both)
        figures.values[f"edge_{setting}_excess_ms"] = excess
        figures.expect(excess <= 0, f"edge_{setting}_excess_ms <= 0")
    figures.values["edge_service_ms"] = 1000 * SERVICE
    figures.values |= _came(found, "edge")
    figures.values["edge_other_programs_cores"] = _foreign(found)
    figures.values["edge_quiet_errors"] = errors = sum(not one.ok for one in found.outcomes)
    figures.expect(errors == 0, "edge_quiet_errors == 0")
    _judge_memory(figures, found)
    figures.invalid += _not_measured(found)
    figures.outcomes += found.outcomes
    figures.tables.append(_by_round(found))


def _judge_memory(figures: Figures, found: Measured) -> None:
    figures.values["edge_memory_before_mib"] = found.before_mib
    for setting, peak in found.peak_mib.items():
        figures.values[f"edge_{setting}_growth_mib"] = peak - found.before_mib
    figures.values["edge_memory_growth_mib"] = growth = max(found.peak_mib.values()) - found.before_mib
    figures.expect(growth <= MOST_GROWTH_MIB, f"edge_memory_growth_mib <= {MOST_GROWTH_MIB:g}")
    figures.samples += found.samples
    memory = [(one.at, one.rss_mb) for one in found.samples if one.rss_mb is not None]
    if memory:
        line = Line("", *zip(*memory, strict=True))
        figures.charts.append(Chart("Memory of the server", "seconds since the run began", "MiB", [line]))


def _by_round(found: Measured) -> Table:
    rows: list[dict[str, Value]] = [
        {
            "round": number,
            "beside": setting,
            "asked": len(outcomes),
            "p95 ms": round(_p95_ms(outcomes), 1),
            "first token p95 ms": round(_first_p95_ms(outcomes), 1),
            "other programs' cores": round(found.foreign[setting][number - 1], 2) if found.foreign else None,
        }
        for number, part in enumerate(found.rounds, 1)
        for setting, outcomes in part.items()
    ]
    return Table("A quiet tenant next to another one, in the order of the run", rows)


def _tell_of_defaults(figures: Figures, found: Measured) -> None:
    """Report the run with tenant limits. It has too few questions to judge their p95, but none of them may fail."""
    for setting, outcomes in found.rounds[0].items():
        figures.values[f"edge_default_{setting}_p95_ms"] = _p95_ms(outcomes)
    figures.values |= _came(found, "edge_default")
    figures.values["edge_default_quiet_errors"] = errors = sum(not one.ok for one in found.outcomes)
    figures.expect(errors == 0, "edge_default_quiet_errors == 0")
    figures.outcomes += found.outcomes


def _came(found: Measured, prefix: str) -> dict[str, Value]:
    """Return the outcomes of the other tenant's requests: reports, refusals, connections that the server closed."""
    reports = found.came.get("similarity", Counter())
    values: dict[str, Value] = {
        f"{prefix}_similarity_reports": reports["200"],
        f"{prefix}_similarity_refused": reports["429"] + reports["503"],
    }
    for setting in ("bodies", "full_bodies"):
        bodies = found.came.get(setting)
        if bodies is not None:
            values[f"{prefix}_{setting}_refused"] = bodies["429"] + bodies["503"]
            values[f"{prefix}_{setting}_closed"] = bodies["closed"]
    return values


def _not_measured(found: Measured) -> list[str]:
    """Return the reasons why the figures are not valid for the server; [] if they are valid."""
    reasons = []
    reports = found.came.get("similarity")
    if reports is not None and not (reports["200"] and reports["429"] + reports["503"]):
        reasons.append(f"the other tenant received no report, or no refusal: {dict(reports)}")
    for setting in ("bodies", "full_bodies"):
        bodies = found.came.get(setting)
        if bodies is not None and bodies["open"] < BODIES * len(found.rounds) / 2:
            reasons.append(f"{setting}: too few connections were open at the end of a round: {dict(bodies)}")
    foreign = _foreign(found)
    if foreign > MOST_FOREIGN:
        reasons.append(f"other programs used {foreign:.2f} cores (limit {MOST_FOREIGN:g}): the machine is too busy")
    lateness = percentile([one.started - one.due for one in found.outcomes], 0.99)
    median = percentile([one.seconds for one in found.outcomes], 0.5)
    late = found.own.judge(median, lateness=lateness, open_loop=True)
    return [*reasons, late] if late else reasons


def _foreign(found: Measured) -> float:
    """Return the number of cores that other programs used, in the setting in which they used the most."""
    return max((statistics.median(cores) for cores in found.foreign.values()), default=0.0)


def _p95_ms(outcomes: Sequence[Outcome]) -> float:
    return 1000 * percentile([one.seconds for one in outcomes], 0.95)


def _first_p95_ms(outcomes: Sequence[Outcome]) -> float:
    first = [seconds for one in outcomes if (seconds := one.first_token_seconds) is not None]
    return 1000 * percentile(first, 0.95)


async def _fill(addresses: Addresses) -> None:
    """Add the documents of both tenants."""
    claims = [
        Document(
            f"claims {number}",
            "\n\n".join(
                f"# Claim {claim}\n\nClaim {claim} is a visit to a specialist, with a copay of $40."
                for claim in range(number * SECTIONS, (number + 1) * SECTIONS)
            ),
        )
        for number in range(DOCUMENTS)
    ]
    plan = Document("plan", f"# Plan\n\nYour deductible is {FACT} per calendar year.")
    async with client(addresses) as rag:
        for tenant, documents in ((HOG, [plan, *claims]), (QUIET, [plan, claims[0]])):
            report = await rag.add(documents, tenant=tenant)
            if report.failed:
                raise RuntimeError(f"the documents of {tenant} were not added: {report.failed}")


@asynccontextmanager
async def _serving(addresses: Addresses, limits: Mapping[str, str]) -> AsyncIterator[Edge]:
    """Run `ragcore serve` with all defaults except the addresses of its servers and the given limits."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAGCORE_", "OPENAI_", "PG"))},
        **limits,
        "DATABASE_URL": addresses.straight_database,
        "OPENAI_API_KEY": "none",
        "RAGCORE_EMBEDDING_BASE_URL": addresses.straight_embedding,
        "RAGCORE_EMBEDDING_MODEL": "fake",
        "RAGCORE_EMBEDDING_DIMENSION": str(DIMENSION),
        "RAGCORE_GENERATION_BASE_URL": addresses.straight_model,
        "RAGCORE_MODELS": "fake",
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ragcore", "serve", "--port", "0", "--tokens", str(_tokens(folder))]
        process = await anyio.open_process(command, env=environment, stdin=subprocess.DEVNULL, stdout=None)
        try:
            edge = Edge(await _address(process), process.pid)
            async with anyio.create_task_group() as group:
                group.start_soon(_show_log, process)
                yield edge
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await _stop(process)


def _tokens(folder: str) -> Path:
    path = Path(folder, "tokens.json")
    path.touch(mode=0o600)
    path.write_text(json.dumps({token: {"tenant": tenant} for tenant, token in TOKENS.items()}))
    return path


async def _address(process: anyio.abc.Process) -> str:
    """Return the address that the server reports."""
    assert process.stderr is not None
    said = b""
    try:
        with anyio.fail_after(START_SECONDS):
            while (found := re.search(rb"serving at (\S+) ", said)) is None:
                said += await process.stderr.receive()
    except (anyio.EndOfStream, TimeoutError):
        raise RuntimeError(f"ragcore serve did not start: {said.decode(errors='replace')}") from None
    return found[1].decode()


async def _show_log(process: anyio.abc.Process) -> None:
    """Copy the server's log to the log of the run. The pipe needs a reader, because a full pipe would block the server."""
    assert process.stderr is not None
    async for piece in process.stderr:
        say(piece.decode(errors="replace").rstrip())


async def _stop(process: anyio.abc.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
    with anyio.move_on_after(STOP_SECONDS) as scope:
        await process.wait()
    if scope.cancelled_caught:
        process.kill()
    await process.aclose()

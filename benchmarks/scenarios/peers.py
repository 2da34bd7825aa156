"""Runs the same job with each adapter in turn: hand-written, ragcore, the threaded service that hung, LangChain, LlamaIndex and Haystack.

All adapters use the same servers and the same passages. Each ratio compares an adapter with the hand-written one. These two run with both transports and
answers of 5, 50 and 300 tokens, and the worse of the two ratios counts. Throughput and processor time are measured with servers that answer at once, so
that the client's cost dominates. Waiting times are measured with servers of realistic latency. For the faults, proxies freeze the connections.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import asyncpg
import typer
from tests.support.elsewhere import Elsewhere, elsewhere
from tests.support.servers import DIMENSION, Addresses

from benchmarks.peers.crew import ADAPTERS, Lap, Member, environment, member
from benchmarks.peers.peer import TOP_K, Job
from benchmarks.peers.worker import QUESTIONS, ROWS
from benchmarks.timing import interleaved, timed
from ragcore import Document, OpenAIEmbedder, PgVectorStore, Query
from ragcore.ingest import Ingestor
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.figures import Chart, Figures, Line, Table, Value, say

OURS, HAND = "ragcore_client", "hand_written"
FRAMEWORKS = ("langchain", "llama_index", "haystack")
TENANTS, PLANS = 5, 80
TENANT = "tenant 0"
DEADLINE = 30.0
REALISTIC = {"embedding": 0.05, "first_token": 0.3, "token": 0.02}
LADDER = (1, 2, 3, 5, 10)
# Seconds for one question, and for five at once, in the service that hung.
ORIGIN_ONE, ORIGIN_FIVE = 14.0, 60.0
FAULTS = (("search", "frozen", 34), ("embed", "frozen", 33), ("generate", "frozen", 33))
FAULT_DEADLINE = 1.0
LATE, HUNG = 0.1, 5.0
# For each number of tokens of an answer, the limit for ragcore's processor time, divided by that of the hand-written adapter with the same transport.
LENGTHS = {5: 0.75, 50: 0.65, 300: 0.55}
TRANSPORTS = ("httpx", "aiohttp")
MOST_LENGTH_ROUNDS = 3
LEAST_RPS_RATIO = 1.3


def run(
    *,
    quick: bool,
    only: Annotated[list[str] | None, typer.Option(help=f"Adapters: {', '.join(ADAPTERS)}. Default: all.")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Number of rounds, in which the adapters take turns.", show_default="5")
    ] = None,
) -> Figures:
    """Compare all adapters. With --quick: only the hand-written one and ragcore, in two rounds."""
    chosen = only or ([HAND, OURS] if quick else list(ADAPTERS))
    unknown = [name for name in chosen if name not in ADAPTERS]
    if unknown:
        raise ValueError(f"unknown adapter {unknown[0]!r}: choose from {', '.join(ADAPTERS)}")
    pythons = {name: python for name in ADAPTERS if name in {*chosen, HAND, OURS} and (python := environment(name))}
    missing = [name for name in (HAND, OURS) if name not in pythons]
    if missing:
        raise ValueError(f"nothing to compare: installing {' and '.join(missing)} failed")
    comparison = _Comparison(pythons, rounds or (2 if quick else 5), 200 if quick else 400)
    return anyio.run(comparison.run)


@dataclass
class _Measured:
    """The measurements of one peer."""

    laps: list[Lap] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    ladder: dict[int, float] = field(default_factory=dict)
    cpu_by_length: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    packages: int = 0
    import_ms: float = 0.0
    by_deadline: int | None = None
    hung: int | None = None
    leaked: int | None = None

    def median(self, figure: str) -> float:
        """Return the median of a figure over the rounds."""
        done = [lap for lap in self.laps if lap.done]
        values = {
            "rps": [len(lap.ended) / lap.done["wall"] for lap in done],
            "cpu_ms": [1000 * lap.done["cpu"] / len(lap.ended) for lap in done],
            "p50_s": [percentile(lap.seconds, 0.5) for lap in done],
            "p99_s": [percentile(lap.seconds, 0.99) for lap in done],
            "peak_mb": [lap.done["peak_mb"] for lap in done],
        }[figure]
        return statistics.median(values)


class _Comparison:
    def __init__(self, pythons: dict[str, Path], rounds: int, count: int) -> None:
        self._pythons = pythons
        self._rounds = rounds
        self._count = count
        self._measured = {name: _Measured() for name in pythons}

    async def run(self) -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            async with elsewhere() as servers:
                await fill(servers.addresses, Path(folder))
                async with self._crew(job_of(servers.addresses, straight=True), Path(folder)) as crew:
                    await self._throughput(crew)
                    await self._waiting(crew, servers)
                await self._lengths(servers, Path(folder))
                await self._faults(servers, Path(folder))
        self._imports()
        return self._figures()

    @asynccontextmanager
    async def _crew(self, job: Job, folder: Path) -> AsyncIterator[dict[str, Member]]:
        async with AsyncExitStack() as stack:
            crew = {}
            for name, python in self._pythons.items():
                crew[name] = await stack.enter_async_context(member(name, python, job, folder))
                self._measured[name].packages = crew[name].packages
            yield crew

    async def _throughput(self, crew: dict[str, Member]) -> None:
        for name, one in crew.items():
            say(f"{name}: warm-up")
            lap = await one.run(concurrency=5, count=30, deadline=DEADLINE, patience=60)
            wrong = [detail for number, detail in lap.details.items() if lap.kinds[number] != "right"]
            if wrong:
                say(f"{name}: {len(wrong)} of {len(lap.asked)} answers are wrong or failed, the first: {wrong[0]}")
        for number in range(self._rounds):
            # Reverse the order in every second round, so that a peer is not always measured after the same other peer.
            for name, one in list(crew.items())[:: -1 if number % 2 else 1]:
                say(f"round {number + 1} of {self._rounds}: {name}")
                alone = await one.run(concurrency=1, count=10, deadline=DEADLINE, patience=60)
                self._measured[name].alone += alone.seconds
                count = self._count if name != "threaded" else self._count // 4
                self._measured[name].laps.append(
                    await one.run(concurrency=50, count=count, deadline=DEADLINE, patience=120)
                )

    async def _lengths(self, servers: Elsewhere, folder: Path) -> None:
        """Measure the hand-written adapter and ragcore with both transports and answers of several lengths, 50 questions at once."""
        async with AsyncExitStack() as stack:
            crew: dict[tuple[str, str], Member] = {}
            for transport in TRANSPORTS:
                job = replace(job_of(servers.addresses, straight=True), transport=transport)
                for name in (HAND, OURS):
                    opened = member(name, self._pythons[name], job, folder)
                    crew[name, transport] = await stack.enter_async_context(opened)
            for tokens in LENGTHS:
                await servers.length(tokens)
                for one in crew.values():  # warm-up
                    await one.run(concurrency=50, count=50, deadline=DEADLINE, patience=60)
                for number in range(min(self._rounds, MOST_LENGTH_ROUNDS)):
                    for (name, transport), one in list(crew.items())[:: -1 if number % 2 else 1]:
                        say(f"{tokens} tokens, round {number + 1}: {name} with {transport}")
                        lap = await one.run(concurrency=50, count=self._count // 2, deadline=DEADLINE, patience=120)
                        spent = self._measured[name].cpu_by_length.setdefault((transport, tokens), [])
                        spent.append(1000 * lap.done["cpu"] / len(lap.ended))
        await servers.length(0)

    async def _waiting(self, crew: dict[str, Member], servers: Elsewhere) -> None:
        await servers.latencies(**REALISTIC)
        for level in LADDER:
            for name, one in crew.items():
                say(f"{level} at once, realistic latencies: {name}")
                lap = await one.run(concurrency=level, count=level, deadline=DEADLINE, patience=120)
                self._measured[name].ladder[level] = max(lap.ended.values()) - min(lap.asked.values())
        await servers.latencies(embedding=0.0, first_token=0.0, token=0.0)

    async def _faults(self, servers: Elsewhere, folder: Path) -> None:
        """Run a hundred calls while each dependency in turn is frozen. Each peer runs alone, behind the proxies."""
        for name, python in self._pythons.items():
            measured = self._measured[name]
            measured.by_deadline = measured.hung = measured.leaked = 0
            for stage, fault, count in FAULTS:
                say(f"{name}: {count} calls while {stage} is {fault}")
                async with member(name, python, job_of(servers.addresses, straight=False), folder) as one:
                    await one.run(concurrency=count, count=count, deadline=DEADLINE, patience=60)
                    lap = await _frozen(one, servers, stage, fault, count)
                    measured.hung += lap.hung(FAULT_DEADLINE, HUNG)
                    measured.by_deadline += count - lap.hung(FAULT_DEADLINE, LATE)
                    # The pools have now reached their size under this fault, to within one connection. If the number grows further, connections leak.
                    sockets = [one.sockets()]
                    for _ in range(2):
                        await _frozen(one, servers, stage, fault, count)
                        sockets.append(one.sockets())
                    measured.leaked += max(0, min(sockets[1:]) - sockets[0] - 1)

    def _imports(self) -> None:
        """Measure the import of each adapter with its dependencies, compared with an empty interpreter of the same environment."""
        for name, python in self._pythons.items():
            say(f"{name}: import")
            statement = f"import benchmarks.peers.{name}"
            medians = interleaved(
                5,
                empty=lambda python=python: timed(partial(_python, python, "pass")),  # type: ignore[misc]
                whole=lambda python=python, statement=statement: timed(partial(_python, python, statement)),  # type: ignore[misc]
            )
            self._measured[name].import_ms = 1000 * (medians["whole"] - medians["empty"])

    def _figures(self) -> Figures:
        figures = Figures()
        ours, hand = self._measured[OURS], self._measured[HAND]
        figures.values["rps_ratio_50"] = rps = ours.median("rps") / hand.median("rps")
        figures.values["hung_of_100"] = ours.hung
        figures.expect(
            rps >= LEAST_RPS_RATIO, f"requests/s at 50 at once at least {LEAST_RPS_RATIO} × the hand-written adapter's"
        )
        lengths: list[dict[str, Value]] = []
        for tokens, most in LENGTHS.items():
            ratios_of = {}
            for transport in TRANSPORTS:
                mine = statistics.median(ours.cpu_by_length[transport, tokens])
                theirs = statistics.median(hand.cpu_by_length[transport, tokens])
                ratios_of[transport] = mine / theirs
                lengths.append(
                    {
                        "tokens": tokens,
                        "transport": transport,
                        "ragcore ms": mine,
                        "by hand ms": theirs,
                        "ratio": mine / theirs,
                    }
                )
            figures.values[f"cpu_ratio_{tokens}"] = worse = max(ratios_of.values())
            figures.expect(worse <= most, f"cpu_ratio_{tokens} <= {most}, the worse of both transports")
        figures.tables.append(Table("Processor time of a question by tokens of its answer, 50 at once", lengths))
        figures.expect(ours.hung == 0, "no ragcore call hangs under the faults")
        for name, measured in self._measured.items():
            if name == OURS:
                continue
            figures.values |= {
                f"{name}.rps_ratio_50": ours.median("rps") / measured.median("rps"),
                f"{name}.cpu_ratio": ours.median("cpu_ms") / measured.median("cpu_ms"),
                f"{name}.hung_of_100": measured.hung,
            }
        rows = [_row(name, measured) for name, measured in self._measured.items()]
        for row in rows:
            if row["peer"] in FRAMEWORKS:
                our_row = next(one for one in rows if one["peer"] == OURS)
                behind = [figure for figure in _LOWER if _float(our_row[figure]) > _float(row[figure])]
                behind += [figure for figure in _HIGHER if _float(our_row[figure]) < _float(row[figure])]
                figures.expect(not behind, f"ahead of {row['peer']} in every row (behind in {', '.join(behind)})")
        figures.tables.append(Table("Each: 50 at once, servers that answer at once", rows))
        compared = ("rps", "p50_s", "p99_s", "cpu_ms", "peak_mb", "import_ms", "packages")
        by_hand = next(row for row in rows if row["peer"] == HAND)
        ratios: list[dict[str, Value]] = [
            {"peer": row["peer"], **{name: _float(row[name]) / _float(by_hand[name]) for name in compared}}
            for row in rows
        ]
        figures.tables.append(Table("Ratio to the hand-written adapter", ratios))
        figures.tables.append(
            Table(
                "Seconds until all are answered, realistic latencies",
                [{"peer": name, **{str(n): s for n, s in one.ladder.items()}} for name, one in self._measured.items()],
            )
        )
        if "threaded" in self._measured:
            self._threaded(figures)
        figures.charts.append(
            Chart(
                "Seconds until all are answered, by questions at once",
                "questions at once",
                "seconds",
                [Line(name, list(one.ladder), list(one.ladder.values())) for name, one in self._measured.items()],
            )
        )
        figures.settings = {"peers": list(self._measured), "rounds": self._rounds, "questions": self._count}
        return figures

    def _threaded(self, figures: Figures) -> None:
        """Draw a chart of the threaded adapter, scaled to the original service, in which one question took 14 s."""
        ladder = self._measured["threaded"].ladder
        scale = ORIGIN_ONE / ladder[1]
        for level, seconds in ladder.items():
            figures.values[f"threaded.at_{level}_scaled_s"] = scale * seconds
        figures.expect(
            scale * ladder[5] > ORIGIN_FIVE,
            "the threaded style takes more than 60 s for five at once, scaled to the original service",
        )


_LOWER = ("p50_s", "p99_s", "cpu_ms", "peak_mb", "import_ms", "packages", "hung")
_HIGHER = ("rps", "by_deadline")


def _row(name: str, measured: _Measured) -> dict[str, Value]:
    figures = ("rps", "p50_s", "p99_s", "cpu_ms", "peak_mb")
    return {
        "peer": name,
        **{figure: measured.median(figure) for figure in figures},
        "alone_ms": 1000 * percentile(measured.alone, 0.5),
        "import_ms": measured.import_ms,
        "packages": measured.packages,
        "by_deadline": measured.by_deadline,
        "hung": measured.hung,
        "leaked": measured.leaked,
        "right": sum(kind == "right" for lap in measured.laps for kind in lap.kinds.values())
        / max(1, sum(len(lap.asked) for lap in measured.laps)),
    }


def _float(value: Value) -> float:
    return float(value or 0)


def job_of(addresses: Addresses, *, straight: bool) -> Job:
    plain = addresses.straight_database if straight else addresses.database
    return Job(
        database=plain.replace("//ragcore@", "//postgres@"),
        plain_database=plain,
        embedding=addresses.straight_embedding if straight else addresses.embedding,
        model=addresses.straight_model if straight else addresses.model,
        tenant=TENANT,
        dimension=DIMENSION,
    )


def _python(python: Path, statement: str) -> None:
    subprocess.run([python, "-W", "ignore", "-c", statement], check=True, cwd=Path(__file__).parents[2])


def _text(tenant: int, plan: int) -> str:
    return (
        f"The deductible of plan P{plan} is ${plan + 100 * (tenant + 1)} per calendar year. It is paid before the plan pays. "
        f"A visit to a specialist costs a copay of ${10 + plan % 50}, and an ambulance {5 + plan % 30} percent."
    )


async def _frozen(one: Member, servers: Elsewhere, stage: str, fault: str, count: int) -> Lap:
    """Run `count` calls at once under the fault, then as many after it."""
    patience = FAULT_DEADLINE + HUNG + 0.5
    await servers.strike(stage, fault)
    await anyio.sleep(0.1)
    lap = await one.run(concurrency=count, count=count, deadline=FAULT_DEADLINE, patience=patience)
    await servers.fair()
    await anyio.sleep(1.0)
    if lap.done:
        await one.run(concurrency=count, count=count, deadline=FAULT_DEADLINE, patience=patience)
    return lap


async def fill(addresses: Addresses, folder: Path) -> None:
    """Fill the table. Also write a file of rows for adapters that need their own table, and a file of questions with their facts."""
    async with (
        PgVectorStore(addresses.straight_database) as store,
        OpenAIEmbedder("fake", dimension=DIMENSION, base_url=addresses.straight_embedding, api_key="none") as embedder,
    ):
        ingestor = Ingestor(embedder=embedder, store=store)
        for tenant in range(TENANTS):
            documents = [Document(f"P{plan}", _text(tenant, plan)) for plan in range(PLANS)]
            report = await ingestor.add(documents, tenant=f"tenant {tenant}")
            assert not report.failed, report.failed
        asked = [(f"What is the deductible of plan P{plan}?", f"${plan + 100}") for plan in range(PLANS)]
        vectors = await embedder.embed([question for question, _ in asked], kind="query")
        # The fake embedder hashes words to few numbers, so different words may get the same number. Ask only questions whose passages are found.
        questions = []
        for (question, fact), vector in zip(asked, vectors, strict=True):
            query = Query(question=question, tenant=TENANT, vector=vector, top_k=TOP_K, mode="vector")
            if any(fact in passage.text for passage in await store.search(query)):
                questions.append((question, fact))
    connection = await asyncpg.connect(addresses.owner)
    try:
        await connection.execute("analyze ragcore.chunk")
        rows = await connection.fetch("select tenant, id, text, embedding::text as vector from ragcore.chunk")
    finally:
        await connection.close()
    (folder / ROWS).write_text(json.dumps([{**row, "vector": json.loads(row["vector"])} for row in rows]))
    (folder / QUESTIONS).write_text(json.dumps(questions))

"""Measures what it costs to observe a question: the processor time that traces and metrics add to it, and the throughput that scrapes cost."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from itertools import count
from typing import TypeAlias

import numpy as np

from ragcore import RAG, Config, Document
from ragcore.loadtest.figures import Figures, say
from ragcore.testing import fake_rag

__all__ = ["MOST_EVENT_US", "observe"]

MOST_EVENT_US = 0.5
# The largest share of a local question that its traces or its metrics may cost.
MOST_SHARE = 0.05
# The largest share of the throughput that a scrape each second may cost.
MOST_SCRAPED = 0.01
QUESTION, DOCUMENT = "What is my deductible?", Document("plan", "Your deductible is $1,500 per calendar year.")
LOCAL, PLAIN, OTEL, METRICS = "local", "plain", "otel_us_per_call", "prometheus_us_per_call"
# Spans, and the metrics of the GenAI conventions as well. The second is reported without a limit.
BOTH = "otel_with_metrics_us_per_call"
# The number of questions of a block.
BLOCKS = {LOCAL: 5, PLAIN: 20, OTEL: 20, BOTH: 20, METRICS: 20}
# Seconds of a window with scrapes, and the seconds between two scrapes. At one scrape a second, the loss is smaller than the differences between two windows.
# So the processor time that questions lose to a scrape is measured at many scrapes a second.
WINDOW, ONE, MANY = 2.0, 1.0, 0.05
# Scrapes in a process of its own, as Prometheus does: for each line, a number of times, with pauses. Without an address, it only pauses.
SCRAPER = """
import sys, time, urllib.request
for line in sys.stdin:
    times, pause, *address = line.split()
    for _ in range(int(times)):
        began = time.monotonic()
        for url in address:
            urllib.request.urlopen(url).read()
        time.sleep(max(0.0, float(pause) - (time.monotonic() - began)))
    print("done", flush=True)
"""

# Calls under way at once while scrapes are measured.
AT_ONCE = 8

Observed: TypeAlias = Callable[[RAG], AbstractAsyncContextManager[object]]
# Scrapes an address a number of times, with a pause between the beginnings.
Scrape: TypeAlias = Callable[[int, float, str], Awaitable[object]]


async def observe(figures: Figures, *, rounds: int) -> None:
    """Add the figures. Those whose packages are not installed are left out.

    Args:
        rounds: number of measurements of each figure.
    """
    await _costs(figures, rounds)
    try:
        await _scraped(figures, max(3, rounds // 5))
    except ImportError as error:
        say(f"{error}: the cost of scrapes is left out")


async def _costs(figures: Figures, rounds: int) -> None:
    """Compare questions with and without traces or metrics, and with the wall time of a question that this machine answers alone.

    The speed of a machine changes within seconds. So each round measures one block of each kind, in random order, and each figure is a median over the rounds.
    The added time is measured with components that answer at once, because a real model's time varies by more than the traces cost.
    """
    draw, number = random.Random(rounds), count()
    async with AsyncExitStack() as stack:
        clients = {PLAIN: await stack.enter_async_context(fake_rag())}
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            clients[LOCAL] = await stack.enter_async_context(RAG.from_config(Config.local(folder)))
        except ImportError as error:
            say(f"{error}: local_question_us is left out")
        for client in clients.values():
            await client.add([DOCUMENT], tenant="member")
        observed: dict[str, Observed] = {PLAIN: lambda rag: nullcontext(), **_ways()}
        taken: dict[str, list[float]] = {name: [] for name in observed}
        questions: list[float] = []
        for turn in range(-1, rounds):  # the first round warms up
            say(f"cost of traces and metrics: round {max(0, turn) + 1} of {rounds}")
            blocks = [*observed, *([LOCAL] if LOCAL in clients else [])]
            measured: dict[str, float] = {}
            for name in draw.sample(blocks, len(blocks)):
                if name == LOCAL:  # each question is new, so none is answered from a cache
                    times = [await _wall(clients[LOCAL], f"{QUESTION} {next(number)}") for _ in range(BLOCKS[LOCAL])]
                    measured[LOCAL] = statistics.median(times)
                else:
                    async with observed[name](clients[PLAIN]):
                        measured[name] = await _cpu(clients[PLAIN], BLOCKS[name])
            if turn < 0:
                continue
            for name in observed:
                taken[name].append(measured[name] - (measured[PLAIN] if name != PLAIN else 0.0))
            if LOCAL in measured:
                questions.append(measured[LOCAL])
    local = statistics.median(questions) if questions else math.nan
    if questions:
        figures.values["local_question_us"] = local
    figures.values["fake_question_us"] = statistics.median(taken.pop(PLAIN))
    for name, added in taken.items():
        figures.values[name] = cost = statistics.median(added)
        if questions:
            figures.values[name.replace("_us_per_call", "_share")] = cost / local
            if name != BOTH:
                figures.expect(cost <= MOST_SHARE * local, f"{name} <= {MOST_SHARE:.0%} of local_question_us")


def _ways() -> dict[str, Observed]:
    """Return the ways to observe whose packages are installed."""
    ways: dict[str, Observed] = {}
    try:
        from opentelemetry.metrics import NoOpMeterProvider
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider

        from ragcore.contrib.otel import Telemetry

        # Nothing is exported.
        spans = Telemetry(tracer_provider=TracerProvider(), meter_provider=NoOpMeterProvider())
        both = Telemetry(tracer_provider=TracerProvider(), meter_provider=MeterProvider([InMemoryMetricReader()]))
        ways[OTEL], ways[BOTH] = (lambda rag: spans), (lambda rag: both)
    except ImportError as error:
        say(f"{error}: {OTEL} is left out")
    try:
        import prometheus_client  # noqa: F401  # whether it is installed

        from ragcore.contrib.prometheus import Metrics

        ways[METRICS] = Metrics
    except ImportError as error:
        say(f"{error}: {METRICS} is left out")
    return ways


async def _wall(rag: RAG, question: str) -> float:
    """Return the microseconds of a question."""
    began = time.perf_counter()
    await rag.ask(question, tenant="member")
    return 1e6 * (time.perf_counter() - began)


async def _cpu(rag: RAG, questions: int) -> float:
    """Return the microseconds of processor time of a question."""
    began = time.process_time()
    for _ in range(questions):
        await rag.ask(QUESTION, tenant="member")
    return 1e6 * (time.process_time() - began) / questions


async def _scraped(figures: Figures, rounds: int) -> None:
    """Compare the questions a second, under load, with and without a scraper in another process."""
    from ragcore.contrib.prometheus import Metrics

    draw = random.Random(rounds)
    async with fake_rag() as rag, Metrics(rag, port=0) as metrics, _scraper() as scrape:
        await rag.add([DOCUMENT], tenant="member")
        address = f"http://127.0.0.1:{metrics.port}/metrics"
        windows = {"no": (WINDOW, ""), "one": (ONE, address), "many": (MANY, address)}
        rates: dict[str, list[tuple[int, float, float]]] = {name: [] for name in windows}
        for turn in range(-1, rounds):
            say(f"cost of scrapes: round {max(0, turn) + 1} of {rounds}")
            for name in draw.sample(list(windows), len(windows)):
                pause, url = windows[name]
                rate = await _answered(rag, scrape(round(WINDOW / pause), pause, url))
                if turn >= 0:
                    rates[name].append(rate)
        times = []
        for _ in range(10):
            used = time.process_time()
            metrics.exposition()
            times.append(1e3 * (time.process_time() - used))
    plain, one, many = (np.array(rates[name]) for name in windows)  # questions, seconds, seconds of processor time
    without, scraped = plain[:, 0] / plain[:, 1], one[:, 0] / one[:, 1]
    figures.values["questions_per_s"] = float(np.median(without))
    figures.values["scraped_questions_per_s"] = float(np.median(scraped))
    figures.values["scraped_ratio"] = float(np.median(scraped / without))
    lost = many[:, 2] - many[:, 0] * plain[:, 2] / plain[:, 0]
    figures.values["scrape_share"] = share = float(np.median(lost)) / round(WINDOW / MANY) / ONE
    figures.values["scrape_ms"] = statistics.median(times)
    figures.expect(
        share < MOST_SCRAPED, f"scrape_share < {MOST_SCRAPED:.0%}: the throughput that a scrape each second costs"
    )


@asynccontextmanager
async def _scraper() -> AsyncIterator[Scrape]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRAPER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    commands, replies = process.stdin, process.stdout

    async def scrape(times: int, pause: float, address: str) -> None:
        commands.write(f"{times} {pause} {address}\n".encode())
        if not await replies.readline():
            raise RuntimeError("the scraper has ended; its error is above")

    try:
        yield scrape
    finally:
        commands.close()
        await process.wait()


async def _answered(rag: RAG, scraping: Awaitable[object]) -> tuple[int, float, float]:
    """Return the questions that are answered until the scrapes are over, the seconds, and the seconds of processor time."""
    answered, over = 0, False

    async def work() -> None:
        nonlocal answered
        while not over:
            await rag.ask(QUESTION, tenant="member")
            answered += 1

    began, used = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
        try:
            await scraping
        finally:
            over = True
    return answered, time.perf_counter() - began, time.process_time() - used

"""Measures what it costs a question to be traced: the time of a local question, embedder included, and the processor time that spans add to a call."""

from __future__ import annotations

import gc
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from ragcore import RAG, Config, Document
from ragcore.loadtest.figures import Figures, say
from ragcore.testing import fake_rag

__all__ = ["MOST_EVENT_US", "MOST_SHARE", "observe"]

MOST_EVENT_US = 0.5
# The largest share of a local question that its traces or its metrics may cost.
MOST_SHARE = 0.05
QUESTION, DOCUMENT = "What is my deductible?", Document("plan", "Your deductible is $1,500 per calendar year.")


async def observe(figures: Figures, *, questions: int) -> None:
    """Add the figures. Without the packages that they need, they are left out.

    Args:
        questions: number of questions of each measurement.
    """
    local = await _local_question(questions)
    if not math.isnan(local):
        figures.values["local_question_us"] = local
    for name, ways in {"otel_us_per_call": _traced}.items():
        try:
            cost = await _cost(ways, questions)
        except ImportError as error:
            say(f"{error}: {name} is left out")
            continue
        figures.values[name] = cost
        if not math.isnan(local):
            figures.expect(cost <= MOST_SHARE * local, f"{name} <= {MOST_SHARE:.0%} of local_question_us")


async def _local_question(questions: int) -> float:
    """Return the median microseconds of a question that this machine answers alone: local embeddings, embedded PostgreSQL, quotation."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            async with RAG.from_config(Config.local(folder)) as rag:
                await rag.add([DOCUMENT], tenant="member")
                return statistics.median(await _times(rag, min(questions, 200), each=True))
    except ImportError as error:
        say(f"{error}: local_question_us is left out")
        return math.nan


async def _cost(ways: Any, questions: int) -> float:
    """Return the microseconds of processor time that a way to observe adds to a call: the median over pairs of measurements, in turn."""
    added = []
    async with fake_rag() as rag:
        await rag.add([DOCUMENT], tenant="member")
        for number in range(15):
            taken = {}
            for observed in (number % 2 == 0, number % 2 != 0):
                with ways() if observed else nullcontext():
                    taken[observed] = (await _times(rag, questions))[0] / questions
            added.append(taken[True] - taken[False])
    return statistics.median(added)


async def _times(rag: RAG, questions: int, *, each: bool = False) -> list[float]:
    """Return the microseconds of each question, or the processor time of all together. No question is answered from a cache."""
    gc.collect()
    gc.disable()
    try:
        began, taken = time.process_time(), []
        for number in range(questions):
            start = time.perf_counter()
            await rag.ask(f"{QUESTION} {number}" if each else QUESTION, tenant="member")
            taken.append(1e6 * (time.perf_counter() - start))
        return taken if each else [1e6 * (time.process_time() - began)]
    finally:
        gc.enable()


@contextmanager
def _traced() -> Iterator[None]:
    """Record spans and metrics with OpenTelemetry's SDK. Nothing is exported."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    from ragcore.contrib.otel import Telemetry

    installed: AbstractContextManager[object] = Telemetry(
        tracer_provider=TracerProvider(), meter_provider=MeterProvider([InMemoryMetricReader()])
    )
    with installed:
        yield

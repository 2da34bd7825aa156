"""Measures the cost of the resilience core and of observing a call, compares it with other libraries, and checks whether the core leaks memory."""

from __future__ import annotations

import asyncio
import gc
import importlib
import math
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from benchmarks.scenarios.imports import milliseconds
from benchmarks.scenarios.observing import MOST_EVENT_US, observe
from ragcore import Document, events
from ragcore.loadtest.driving.monitor import resident_mb
from ragcore.loadtest.figures import Figures, say
from ragcore.resilience import Bulkhead, CircuitBreaker, Policy, deadline
from ragcore.testing import fake_rag

MOST_RATIO = 1.2
MOST_IMPORT_MS = 80.0
WARM_UP = 200
# Resident memory varies by some pages. A leak of one pointer (8 bytes) for each call would be 8 MB.
MOST_GROWTH_KB = 1024.0

Side: TypeAlias = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """Do nothing. This is the function whose calls are measured."""


def run(*, quick: bool) -> Figures:
    """Measure the median microseconds of a call for each library, in turn. Then compare the memory before and after many calls."""
    figures = anyio.run(_run, 7 if quick else 21, 2_000 if quick else 10_000, 100_000 if quick else 1_000_000)
    figures.values["import_ms"] = import_ms = milliseconds(5 if quick else 20)["import_ms"]
    figures.expect(import_ms < MOST_IMPORT_MS, f"import_ms < {MOST_IMPORT_MS:g}")
    return figures


async def _run(rounds: int, calls: int, many: int) -> Figures:
    sides = {**_ours(), **_standard(), **await _peers()}
    results: dict[str, list[float]] = {name: [] for name in sides}
    # Without a warm-up, the first measurement would include imports, filling the interpreter's caches, and the processor's change to full speed.
    say("warming up …")
    for side in sides.values():
        await _microseconds(side, calls)
    draw = random.Random(rounds)
    ratios: list[float] = []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        # The order changes in each round, and garbage is collected only between the measurements.
        for name in draw.sample(list(sides), len(sides)):
            results[name].append(await _microseconds(sides[name], calls))
        ratios.append(await _ratio(sides["policy_call"], sides["fail_after"], calls))
    median = {name: statistics.median(values) for name, values in results.items()}
    figures = Figures()
    for name, value in median.items():
        figures.values[f"{name}_us"] = value
    breakers = {name: value for name, value in median.items() if name in ("purgatory", "aiobreaker", "circuitbreaker")}
    figures.values["policy_ratio_to_fail_after"] = ratio = statistics.median(ratios)
    figures.expect(ratio <= MOST_RATIO, f"policy_ratio_to_fail_after <= {MOST_RATIO:g}")
    if breakers:
        figures.values["breaker_ratio_to_best_peer"] = median["breaker_call"] / min(breakers.values())
        figures.values["breaker_ratio_to_purgatory"] = median["breaker_call"] / breakers.get("purgatory", math.nan)
        figures.expect(
            median["breaker_call"] <= breakers.get("purgatory", math.inf), "breaker no slower than purgatory"
        )
    figures.values["event_without_listener_us"] = event = _emit(calls)
    figures.expect(event < MOST_EVENT_US, f"event_without_listener_us < {MOST_EVENT_US:g}")
    await observe(figures, rounds=15 if calls < 5_000 else 60)
    figures.values["cpu_ms_per_question"] = await _cpu_of_a_question(100 if calls < 5_000 else 500)
    say(f"{many:,} calls, to measure memory …")
    figures.values["memory_calls"] = many
    figures.values["rss_growth_kb"] = growth = await _growth(many)
    figures.expect(growth < MOST_GROWTH_KB, f"rss_growth_kb < {MOST_GROWTH_KB:g}")
    return figures


def _ours() -> dict[str, Side]:
    policy, inner, breaker, bulkhead = Policy("bench"), Policy("inner"), CircuitBreaker(), Bulkhead(8)

    async def with_deadline() -> None:
        with deadline(10):
            await nothing()

    async def with_bulkhead() -> None:
        async with bulkhead:
            await nothing()

    return {
        "policy_call": lambda: policy.call(nothing),
        "policy_call_keyed": lambda: inner.call(nothing, key="model"),
        "breaker_call": lambda: breaker.call(nothing),
        "bulkhead": with_bulkhead,
        "deadline": with_deadline,
    }


def _standard() -> dict[str, Side]:
    limiter = anyio.CapacityLimiter(8)

    async def fail_after() -> None:
        with anyio.fail_after(10):
            await nothing()

    async def cancel_scope() -> None:
        with anyio.CancelScope(deadline=anyio.current_time() + 10):
            await nothing()

    async def capacity_limiter() -> None:
        async with limiter:
            await nothing()

    async def asyncio_timeout() -> None:
        async with asyncio.timeout(10):
            await nothing()

    return {
        "fail_after": fail_after,
        "cancel_scope": cancel_scope,
        "capacity_limiter": capacity_limiter,
        "asyncio_timeout": asyncio_timeout,
    }


async def _peers() -> dict[str, Side]:
    """Return the calls of the other libraries, which `pip install --group bench` installs. If a library is missing, print a message and leave it out."""
    import tenacity

    makers: dict[str, Callable[[Any], Any]] = {
        "stamina": lambda stamina: stamina.retry(on=OSError)(nothing),
        "purgatory": lambda purgatory: purgatory.AsyncCircuitBreakerFactory()("bench")(nothing),
        "aiobreaker": _aiobreaker,
        "circuitbreaker": lambda circuitbreaker: circuitbreaker.CircuitBreaker().decorate(nothing),
    }
    sides: dict[str, Side] = {"tenacity": tenacity.retry(stop=tenacity.stop_after_attempt(3))(nothing)}
    for name, make in makers.items():
        try:
            sides[name] = make(importlib.import_module(name))
        except ImportError:
            say(f"{name} is not installed: run `pip install --group bench`")
    return sides


def _aiobreaker(aiobreaker: Any) -> Side:
    breaker = aiobreaker.CircuitBreaker()
    return lambda: breaker.call_async(nothing)


async def _microseconds(side: Side, calls: int) -> float:
    gc.collect()
    gc.disable()
    try:
        for _ in range(WARM_UP):  # fill the processor's caches, which the garbage collector has just used
            await side()
        await checkpoint()
        began = time.perf_counter()
        for _ in range(calls):
            await side()
        return 1e6 * (time.perf_counter() - began) / calls
    finally:
        gc.enable()


async def _ratio(one: Side, other: Side, calls: int) -> float:
    """Return the ratio of both times. Each is measured in four parts, in turn, so that a machine that becomes slower affects both."""
    taken = [0.0, 0.0]
    for part in range(8):
        taken[part % 2] += await _microseconds((one, other)[part % 2], calls // 4)
    return taken[0] / taken[1]


async def _growth(calls: int) -> float:
    """Return the growth of resident memory in kB after `calls` calls. A hundredth of them fail, and every thousand calls use another key."""
    policy = Policy("memory", retry=False)

    async def fail() -> None:
        raise OSError

    async def some(number: int) -> None:
        for index in range(number):
            key = str(index // 1_000)
            if index % 100 != 99:
                await policy.call(nothing, key=key)
            else:
                with suppress(OSError):
                    await policy.call(fail, key=key)
                await checkpoint()  # the event loop must run, or it never frees its timers

    await some(max(10_000, calls // 10))
    gc.collect()
    before = 1024 * (resident_mb(os.getpid()) or 0.0)
    await some(calls)
    gc.collect()
    return 1024 * (resident_mb(os.getpid()) or 0.0) - before


async def _cpu_of_a_question(questions: int) -> float:
    """Return the processor time of the client for a question in milliseconds. All components are fakes that answer at once."""
    async with fake_rag() as rag:
        await rag.add([Document("plan", "Your deductible is $1,500 per calendar year.")], tenant="member")
        medians = []
        for _ in range(5):
            used = time.process_time()
            for _ in range(questions):
                await rag.ask("What is my deductible?", tenant="member")
            medians.append(1000 * (time.process_time() - used) / questions)
        return statistics.median(medians)


def _emit(calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        events.emit("bench", "bench")
    return 1e6 * (time.perf_counter() - began) / calls

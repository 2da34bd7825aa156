"""What the machinery costs when nothing goes wrong."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio

from benchmarks.figures import Figures
from ragcore import events
from ragcore.resilience import CircuitBreaker, Policy

MOST_RATIO = 1.5


async def nothing() -> None:
    """What is called."""


def run(*, quick: bool) -> Figures:
    """Medians of rounds in turn, in microseconds a call."""
    return anyio.run(_run, 5 if quick else 15, 2_000 if quick else 10_000)


async def _run(rounds: int, calls: int) -> Figures:
    policy, breaker = Policy("bench"), CircuitBreaker()

    async def fail_after() -> None:
        with anyio.fail_after(10):
            await nothing()

    sides: dict[str, Callable[[], Awaitable[None]]] = {
        "fail_after": fail_after,
        "policy_call": lambda: policy.call(nothing),
        "breaker_call": lambda: breaker.call(nothing),
    }
    results: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            for _ in range(calls):
                await side()
            results[name].append(1e6 * (time.perf_counter() - began) / calls)
    medians = {name: sorted(values)[len(values) // 2] for name, values in results.items()}
    figures = Figures()
    figures.values["fail_after_us"] = medians["fail_after"]
    figures.values["policy_call_us"] = medians["policy_call"]
    figures.values["policy_ratio_to_fail_after"] = medians["policy_call"] / medians["fail_after"]
    figures.values["breaker_call_us"] = medians["breaker_call"]
    figures.values["event_without_listener_us"] = _emit(calls)
    figures.expect(
        float(figures.values["policy_ratio_to_fail_after"] or 0) <= MOST_RATIO,
        f"policy_ratio_to_fail_after <= {MOST_RATIO:g}",
    )
    return figures


def _emit(calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        events.emit("bench", "bench")
    return 1e6 * (time.perf_counter() - began) / calls

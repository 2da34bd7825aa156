"""Concurrent questions against a loopback server: how many requests they share, and what one alone waits for it."""

from __future__ import annotations

import statistics

import anyio

from benchmarks.figures import Figures
from ragcore import OpenAIEmbedder
from ragcore.testing import OpenAIServer

LATENCY = 0.05
AT_ONCE = 50


def run(*, quick: bool) -> Figures:
    """Rounds of 50 questions at once, each question by question and shared, in turn."""
    return anyio.run(_run, 5 if quick else 20)


async def _run(rounds: int) -> Figures:
    figures = Figures()
    async with OpenAIServer(embedding_latency=LATENCY) as server:
        async with OpenAIEmbedder("fake", dimension=64, base_url=server.base_url, api_key="none") as embedder:
            await embedder.embed(["warm"], kind="query")
            shared, apart, alone, direct, requests = [], [], [], [], []
            for number in range(rounds):
                before = len(server.requests)
                shared.append(await _at_once(embedder, number, kind="query"))
                requests.append((len(server.requests) - before) / AT_ONCE)
                apart.append(await _at_once(embedder, number, kind="document"))
                alone.append(await _one(embedder, number, kind="query"))
                direct.append(await _one(embedder, number, kind="document"))
    figures.values["embedding_requests_ratio"] = statistics.median(requests)
    figures.values["p50_ratio"] = statistics.median(shared) / statistics.median(apart)
    figures.values["added_latency_alone_ms"] = 1000 * (statistics.median(alone) - statistics.median(direct))
    return figures


async def _at_once(embedder: OpenAIEmbedder, number: int, *, kind: str) -> float:
    seconds: list[float] = []

    async def one(question: int) -> None:
        began = anyio.current_time()
        await embedder.embed([f"question {number} {question}"], kind=kind)  # type: ignore[arg-type]
        seconds.append(anyio.current_time() - began)

    async with anyio.create_task_group() as group:
        for question in range(AT_ONCE):
            group.start_soon(one, question)
    return statistics.median(seconds)


async def _one(embedder: OpenAIEmbedder, number: int, *, kind: str) -> float:
    began = anyio.current_time()
    await embedder.embed([f"alone {number}"], kind=kind)  # type: ignore[arg-type]
    return anyio.current_time() - began

"""Sends concurrent questions to a loopback server. Measures the requests that they share, the wait of one question, and the cost of a cached question."""

from __future__ import annotations

import statistics
import time

import anyio

from ragcore import CachedEmbedder, OpenAIEmbedder
from ragcore.loadtest.figures import Figures
from ragcore.testing import OpenAIServer

LATENCY = 0.05
AT_ONCE = 50
KEPT = 500
DIMENSION = 1536
MOST_HIT_MS = 0.1


def run(*, quick: bool) -> Figures:
    """Send rounds of 50 questions at once. Rounds with one request for each question and rounds with shared requests take turns."""
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
    async with OpenAIServer(dimension=DIMENSION) as server:
        figures.values["cache_hit_ms"] = hit = 1000 * await _hit(server)
    figures.expect(hit <= MOST_HIT_MS, f"cache_hit_ms <= {MOST_HIT_MS}")
    figures.values["embedding_requests_ratio"] = statistics.median(requests)
    figures.values["p50_ratio"] = statistics.median(shared) / statistics.median(apart)
    figures.values["added_latency_alone_ms"] = 1000 * (statistics.median(alone) - statistics.median(direct))
    return figures


async def _hit(server: OpenAIServer) -> float:
    """Return the median seconds for a repeated question. The vectors are as long as those of text-embedding-3-small."""
    inner = OpenAIEmbedder("wide", dimension=DIMENSION, base_url=server.base_url, api_key="none")
    seconds = []
    async with CachedEmbedder(inner) as embedder:
        questions = [f"How much is a visit to specialist number {number}?" for number in range(KEPT)]
        for question in questions:
            await embedder.embed([question], kind="query")
        for question in questions:
            began = time.perf_counter()
            await embedder.embed([question], kind="query")
            seconds.append(time.perf_counter() - began)
        assert embedder.snapshot()["hits"] == KEPT
    return statistics.median(seconds)


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

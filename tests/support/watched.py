"""A served client with metrics and, on demand, a fault. `python -m tests.support.watched JSON` says its ports, and injects the fault at each line.

The service runs in its own process, so that its memory, its event loop and its processor time are its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import anyio
import anyio.to_thread
import uvicorn

from ragcore import RAG, Document, Passage, Query, Retriever, Settings, StoreError, Vector
from ragcore.contrib import asgi
from ragcore.contrib.prometheus import Metrics
from ragcore.embedding import CachedEmbedder
from ragcore.resilience import CircuitBreaker, Policy
from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, FakeStore, Slow
from ragcore.types import Kind

__all__ = ["FAULTS", "QUESTIONS", "SLOW_SECONDS", "Fault"]

Fault: TypeAlias = Literal["none", "hang", "block", "leak", "slow", "database", "errors", "drift", "empty"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
QUESTIONS = [
    f"What is the deductible of plan {name}?" for name in ("gold", "silver", "bronze", "basic", "family", "student")
]
DEADLINE = 1.5
SLOW_SECONDS = 8.0
LEAK_BYTES, LEAK_SECONDS = 600_000, 0.1


class Embedder(FakeEmbedder):
    """A model that is replaced by another one of the same dimension, without a word to the service."""

    drifted = False

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        vectors = await super().embed(texts, kind=kind)
        return -vectors if self.drifted else vectors


class Store(FakeStore):
    """A store with a call that ignores its cancellation, and with statements that fail."""

    hangs = False
    fails = False
    searches = 0

    async def search(self, query: Query, /) -> Sequence[Passage]:
        self.searches += 1
        if self.hangs:
            self.hangs = False
            with anyio.CancelScope(shield=True):
                await anyio.sleep(600)
        if self.fails and self.searches % 2:
            raise StoreError('relation "chunks" is damaged', dependency="store", stage="search")
        return await super().search(query)


async def authenticate(scope: Mapping[str, Any]) -> asgi.Identity | None:
    return asgi.Identity("member", admin=True)


async def main(options: Mapping[str, Any]) -> None:
    # The breaker's window is as short as the rules' times. Otherwise the share of errors would be high long before the breaker opens.
    store = Store(policy=Policy("store", retry=False, breaker=CircuitBreaker(sampling_duration=3.0)))
    embedder, generator = Embedder(), FakeGenerator(token_latency=0.002, policy=Policy("model"))
    rag = RAG(
        retriever=Retriever(store=store, embedder=CachedEmbedder(embedder)),
        generator=generator,
        settings=Settings(timeout=DEADLINE if options["fault"] == "hang" else 30.0),
    )
    metrics = Metrics(rag, port=0)
    config = uvicorn.Config(asgi.app(rag, authenticate=authenticate, metrics=metrics), port=0, log_level="error")
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve)
        while not server.started:
            await anyio.sleep(0.01)
        await rag.add(
            [Document(question, f"{question} It is $1,500 a year.") for question in QUESTIONS], tenant="member"
        )
        port = server.servers[0].sockets[0].getsockname()[1]
        print(json.dumps({"port": port, "metrics": metrics.port}), flush=True)
        async with anyio.create_task_group() as faults:
            while await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                await inject(options["fault"], rag, embedder, store, generator, faults)
            faults.cancel_scope.cancel()
        server.should_exit = True


async def inject(
    fault: Fault, rag: RAG, embedder: Embedder, store: Store, generator: FakeGenerator, group: Any
) -> None:
    match fault:
        case "hang":
            store.hangs = True
        case "block":
            import time

            time.sleep(20)
        case "leak":
            group.start_soon(leak)
        case "slow":
            generator.faults.always(Slow(SLOW_SECONDS))
        case "database":
            store.faults.always(Fail(ConnectionRefusedError(111, "connection refused")))
        case "errors":
            store.fails = True
        case "drift":
            embedder.drifted = True
            cached = rag.retriever.embedder
            assert isinstance(cached, CachedEmbedder)
            cached.clear()
        case "empty":
            await rag.delete_tenant(tenant="member")


async def leak() -> None:
    held = []
    while True:
        held.append(b"x" * LEAK_BYTES)
        await anyio.sleep(LEAK_SECONDS)


if __name__ == "__main__":
    anyio.run(main, json.loads(sys.argv[1]))

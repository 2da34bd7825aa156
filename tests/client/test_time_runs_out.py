"""The deadline may pass between any two readings of the clock. The caller gets a result or a typed error of ragcore, never another error."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import ragcore
from ragcore import Document, RagcoreError
from ragcore.resilience import deadline
from ragcore.testing import FakeEmbedder, FakeGenerator

STEP = 1e-3
READINGS = 400


class Creeping(asyncio.SelectorEventLoop):
    """An event loop whose clock advances by one step each time it is read, and at no other time."""

    moment = 0.0

    def time(self) -> float:
        self.moment += STEP
        return self.moment


async def ask(rag: ragcore.RAG, timeout: float) -> None:
    await rag.ask("What is my deductible?", tenant="t", timeout=timeout)


async def stream(rag: ragcore.RAG, timeout: float) -> None:
    async with rag.stream("What is my deductible?", tenant="t", timeout=timeout) as events:
        await events.answer()


async def hybrid(rag: ragcore.RAG, timeout: float) -> None:
    await rag.retrieve("What is my deductible?", tenant="t", mode="hybrid", timeout=timeout)


async def similarity(rag: ragcore.RAG, timeout: float) -> None:
    await rag.similarity("What is my deductible?", tenant="t", timeout=timeout)


async def add(rag: ragcore.RAG, timeout: float) -> None:
    with deadline(timeout):
        await rag.add([Document("e", f"A new text {timeout}.")], tenant="t")


@pytest.mark.parametrize("call", [ask, stream, hybrid, similarity, add], ids=lambda call: call.__name__)
def test_whenever_the_time_runs_out_the_error_is_typed(call: object) -> None:
    outcomes: Counter[str] = Counter()

    async def main() -> None:
        retriever = ragcore.Retriever(store=ragcore.MemoryStore(), embedder=FakeEmbedder())
        settings = ragcore.Settings(watchdog=False)
        generator = ragcore.FallbackGenerator([FakeGenerator(), FakeGenerator()])
        async with ragcore.RAG(retriever=retriever, generator=generator, settings=settings) as rag:
            await rag.add([Document("d", "Your deductible is $1,500.")], tenant="t")
            for readings in range(1, READINGS):
                try:
                    await call(rag, readings * STEP)  # type: ignore[operator]  # one of the functions above
                    outcomes["answered"] += 1
                except RagcoreError as error:
                    outcomes[type(error).__name__] += 1

    with asyncio.Runner(loop_factory=Creeping) as runner:
        runner.run(main())
    # Some runs had too little time for any step, and some had enough time for all of them.
    assert outcomes["answered"] > 0
    assert outcomes["DeadlineExceeded"] > 0, outcomes

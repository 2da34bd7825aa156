"""Measures the effect of one tenant on the others in virtual time. That tenant asks without a pause, or its questions fail."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from ragcore import RAG, Document, EmbeddingError, RagcoreError, Settings
from ragcore.loadtest.estimates import percentile
from ragcore.resilience import Bulkhead, Policy, flow
from ragcore.retrieval.retriever import Retriever
from ragcore.testing import FakeEmbedder, FakeStore
from ragcore.testing.virtual import VirtualLoop
from tests.support.overload import Cell, Model

__all__ = ["poison_ratio", "quiet_ratio"]

CELL = Cell(slots=4, service=0.5, queue=256, timeout=30.0, load=1.0, loop="open")
QUESTION = "What is my deductible?"
QUIET, OTHERS = "quiet", tuple(f"other {number}" for number in range(5))
# With the larger crowd, fewer questions are asked, because each simulated second takes a minute.
QUIET_QUESTIONS, QUESTIONS_BESIDE_MANY, MANY, WARM_UP = 60, 10, 1_000, 2.0
POISON_SECONDS = 300.0


def quiet_ratio(loops: int) -> float:
    """Return the p95 latency of a tenant while another tenant runs `loops` loops, divided by the sum of its p95 alone and one service time.

    The tenant asks once a second.
    """
    alone, beside = (anyio.run(_quiet, count, backend_options={"loop_factory": VirtualLoop}) for count in (0, loops))
    return float(beside / (alone + CELL.service))


def poison_ratio(stage: str, *, quick: bool) -> float:
    """Return the good answers of the other tenants while one tenant's questions make a dependency fail, divided by their good answers without that tenant."""
    seconds = POISON_SECONDS / (5 if quick else 1)
    without, beside = (
        anyio.run(_poison, stage, bad, seconds, backend_options={"loop_factory": VirtualLoop}) for bad in (False, True)
    )
    return float(beside / without)


async def _quiet(loops: int) -> float:
    took: list[float] = []

    async def hog(rag: RAG) -> None:
        while True:
            try:
                await rag.ask(QUESTION, tenant="hog")
            except RagcoreError:
                await anyio.sleep(0.1)

    async def ask(rag: RAG) -> None:
        began = anyio.current_time()
        try:
            answer = await rag.ask(QUESTION, tenant=QUIET)
        except RagcoreError:
            took.append(CELL.timeout)
        else:
            took.append(CELL.timeout if answer.degraded else anyio.current_time() - began)

    async def work(rag: RAG) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(loops):
                group.start_soon(hog, rag)
            await anyio.sleep(WARM_UP)
            async with anyio.create_task_group() as questions:
                for _ in range(QUIET_QUESTIONS if loops < MANY else QUESTIONS_BESIDE_MANY):
                    questions.start_soon(ask, rag)
                    await anyio.sleep(1)
            group.cancel_scope.cancel()

    await _with_rag(work, tenants=("hog", QUIET))
    return percentile(took, 0.95)


async def _poison(stage: str, bad: bool, seconds: float) -> int:
    good = 0

    async def ask(rag: RAG, tenant: str) -> None:
        nonlocal good
        try:
            answer = await rag.ask(QUESTION, tenant=tenant)
        except RagcoreError:
            return
        good += not answer.degraded and tenant != "bad"

    async def work(rag: RAG) -> None:
        draw, failing = random.Random("others"), random.Random("bad")
        async with anyio.create_task_group() as group:
            await anyio.sleep(1)
            if bad:  # ask six questions at once, and then two a second
                for _ in range(6):
                    group.start_soon(ask, rag, "bad")
            end = anyio.current_time() + seconds
            due, due_bad = 0.0, 0.0
            due = due_bad = anyio.current_time()
            while anyio.current_time() < end:
                due_bad = due_bad if bad else end + 1
                await anyio.sleep_until(min(due, due_bad))
                if due <= due_bad:
                    group.start_soon(ask, rag, draw.choice(OTHERS))
                    due += draw.expovariate(3.0)
                else:
                    group.start_soon(ask, rag, "bad")
                    due_bad += failing.expovariate(2.0)

    await _with_rag(work, tenants=("bad", *OTHERS), fails=stage)
    return good


class _PoisonedEmbedder(FakeEmbedder):
    """Fails with status 500 for one flow."""

    def __init__(self, fails: bool) -> None:
        super().__init__(policy=Policy("embedding"))
        self._fails = fails

    async def embed(self, texts: Any, /, *, kind: Any) -> Any:
        """Embed as `FakeEmbedder.embed` does, but fail for that flow."""

        async def attempt() -> Any:
            await anyio.sleep(0.05)
            if self._fails and kind == "query" and flow.current() == "bad":
                raise OSError("500")
            return None

        try:
            await self.policy.call(attempt)
        except OSError as error:
            raise EmbeddingError("500", dependency="embedding", stage="embed") from error
        return await super().embed(texts, kind=kind)


async def _with_rag(work: Callable[[RAG], Awaitable[None]], *, tenants: tuple[str, ...], fails: str = "") -> None:
    policy = Policy("generation", bulkhead=Bulkhead(CELL.slots, queue=CELL.queue))
    model = Model(CELL, policy, fails="bad" if fails == "generate" else None)
    retriever = Retriever(store=FakeStore(), embedder=_PoisonedEmbedder(fails == "embed"))
    async with RAG(retriever=retriever, generator=model, settings=Settings(watchdog=False)) as rag:
        for tenant in tenants:
            await rag.add([Document("plan", "Your deductible is $1,500 per calendar year.")], tenant=tenant)
        await work(rag)

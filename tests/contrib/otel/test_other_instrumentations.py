"""ragcore's spans beside those of other instrumentations: the `openai` package and asyncpg."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import openai
import pytest
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor
from tests.contrib.otel.recorded import DOCUMENTS, QUESTION, Recorded, rag_of

from ragcore import RAG, Generation, PgVectorStore, Prompt, Retriever, Settings
from ragcore.generation.prompt import render
from ragcore.generation.streams import at_once
from ragcore.testing import FakeEmbedder, FakeGenerator, FakeStore, OpenAIServer

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


# The instrumentation of openai keeps the first provider that it was given, for the whole process.
RECORDED = Recorded()


@pytest.fixture
def recorded() -> Recorded:
    RECORDED.begun.clear()
    RECORDED.ended.clear()
    return RECORDED


@pytest.fixture
def _openai_is_instrumented(recorded: Recorded) -> Iterator[None]:
    OpenAIInstrumentor().instrument(tracer_provider=recorded.provider, meter_provider=recorded.meters)  # type: ignore[no-untyped-call]  # the package has no types
    yield
    OpenAIInstrumentor().uninstrument()  # type: ignore[no-untyped-call]  # the package has no types


@pytest.fixture
def _asyncpg_is_instrumented(recorded: Recorded) -> Iterator[None]:
    AsyncPGInstrumentor().instrument(tracer_provider=recorded.provider)  # type: ignore[no-untyped-call]  # the package has no types
    yield
    AsyncPGInstrumentor().uninstrument()  # type: ignore[no-untyped-call]  # the package has no types


class Own:
    """A user's generator, which calls the typed method of the `openai` package."""

    model = "large"

    def __init__(self, model_server: OpenAIServer) -> None:
        self._base_url = model_server.base_url

    async def generate(self, prompt: Prompt, /) -> Generation:
        async with openai.AsyncOpenAI(base_url=self._base_url, api_key="none") as client:
            messages: Any = render(prompt)
            got = await client.chat.completions.create(model="large", messages=messages)
        return Generation(got.choices[0].message.content or "", model="large")

    def stream(self, prompt: Prompt, /) -> AbstractAsyncContextManager[AsyncIterator[str | Generation]]:
        return at_once(self.generate(prompt))


@pytest.fixture
async def model_server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer(text="It is 1,500 dollars [1].") as made:
        yield made


@pytest.mark.usefixtures("_openai_is_instrumented")
async def test_ragcores_own_requests_are_traced_once(model_server: OpenAIServer, recorded: Recorded) -> None:
    async with rag_of(model_server) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        with recorded.telemetry():
            await rag.ask(QUESTION, tenant="m")
    assert recorded.names() == [
        "chat large",
        "embeddings small",
        "invoke_workflow ragcore.ask",
        "retrieval MemoryStore",
    ]


@pytest.mark.usefixtures("_openai_is_instrumented")
@pytest.mark.parametrize("leave_out", [(), ("generate",)])
async def test_a_generator_of_ones_own_is_traced_once_if_ragcore_leaves_it_out(
    model_server: OpenAIServer, recorded: Recorded, leave_out: tuple[str, ...]
) -> None:
    retriever = Retriever(store=FakeStore(), embedder=FakeEmbedder())
    async with RAG(retriever=retriever, generator=Own(model_server), settings=Settings(watchdog=False)) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        with recorded.telemetry(leave_out=leave_out):
            await rag.ask(QUESTION, tenant="m")
    recorded.complete()
    chats = recorded.of("chat large")
    whole = recorded.one("invoke_workflow ragcore.ask")
    assert len(chats) == (1 if leave_out else 2)
    assert [span.name for span in recorded.ended if span.parent is None] == [whole.name]
    inner = next(span for span in chats if "gen_ai.system" in (span.attributes or {}))
    parent = whole if leave_out else next(span for span in chats if span is not inner)
    assert inner.parent is not None
    assert inner.parent.span_id == parent.context.span_id


@pytest.mark.usefixtures("_asyncpg_is_instrumented")
@pytest.mark.parametrize("suppress", [False, True])
async def test_the_statements_of_a_search_are_in_its_span_or_suppressed(
    migrated: tuple[str, str], recorded: Recorded, suppress: bool
) -> None:
    retriever = Retriever(store=PgVectorStore(migrated[0]), embedder=FakeEmbedder())
    async with RAG(retriever=retriever, generator=FakeGenerator(), settings=Settings(watchdog=False)) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        await rag.ask(QUESTION, tenant="m")
        recorded.begun.clear()
        recorded.ended.clear()
        with recorded.telemetry(suppress=suppress):
            await rag.ask(QUESTION, tenant="m")
    search = recorded.one("retrieval ragcore")
    assert search.attributes is not None
    assert search.attributes["gen_ai.data_source.id"] == "ragcore"
    assert search.attributes["server.address"]
    within = recorded.children(search)
    assert bool(within) is not suppress

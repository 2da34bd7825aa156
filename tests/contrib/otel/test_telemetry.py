"""Spans and metrics of calls, as OpenTelemetry's SDK records them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, context, trace
from opentelemetry.trace import SpanKind, StatusCode
from tests.contrib.otel.recorded import DOCUMENTS, QUESTION, Recorded, rag_of

import ragcore
from ragcore import RAG, Settings
from ragcore.contrib.otel import Telemetry
from ragcore.contrib.otel import conventions as names
from ragcore.lifecycle import operations
from ragcore.testing import (
    Broken,
    Fail,
    FakeEmbedder,
    FakeGenerator,
    FakeReranker,
    Hang,
    OpenAIServer,
    Slow,
    fake_rag,
)

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]
ASK, STREAM = "invoke_workflow ragcore.ask", "invoke_workflow ragcore.stream"
CHAT, EMBED, SEARCH = "chat large", "embeddings small", "retrieval MemoryStore"


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer(text="It is 1,500 dollars [1].") as made:
        yield made


@pytest.fixture
async def rag(server: OpenAIServer) -> AsyncIterator[RAG]:
    async with rag_of(server) as made:
        await made.add(DOCUMENTS, tenant="m")
        yield made


async def test_an_answer_is_a_span_with_one_child_for_each_stage(
    rag: RAG, recorded: Recorded, server: OpenAIServer
) -> None:
    with recorded.telemetry():
        answer = await rag.ask(QUESTION, tenant="m")
    recorded.complete()
    whole, chat, embed, search = (recorded.one(name) for name in (ASK, CHAT, EMBED, SEARCH))
    assert recorded.children(whole) == [CHAT, EMBED, SEARCH]
    assert whole.parent is None
    assert (whole.kind, chat.kind, embed.kind, search.kind) == (
        SpanKind.INTERNAL,
        SpanKind.CLIENT,
        SpanKind.CLIENT,
        SpanKind.INTERNAL,
    )
    assert whole.attributes == {
        names.OPERATION: "invoke_workflow",
        names.AGENT: "ragcore.ask",
        names.METHOD: "ask",
        names.CALL_ID: answer.call_id,
        names.OUTCOME: "ok",
        names.STAGE: "generate",
        names.FINISH_REASONS: ("stop",),
    }
    assert chat.attributes is not None
    assert {name: value for name, value in chat.attributes.items() if name != names.FIRST_CHUNK} == {
        names.OPERATION: "chat",
        names.PROVIDER: "openai",
        names.REQUEST_MODEL: "large",
        names.REQUEST_STREAM: True,
        names.REQUEST_MAX_TOKENS: 800,
        names.SERVER_ADDRESS: "127.0.0.1",
        names.SERVER_PORT: server.port,
        names.RESPONSE_MODEL: answer.model,
        names.FINISH_REASONS: ("stop",),
        names.INPUT_TOKENS: answer.usage.prompt_tokens,
        names.OUTPUT_TOKENS: answer.usage.completion_tokens,
    }
    assert chat.attributes[names.FIRST_CHUNK] == pytest.approx(answer.timings.first_token, abs=1.0)
    assert embed.attributes == {
        names.OPERATION: "embeddings",
        names.PROVIDER: "openai",
        names.REQUEST_MODEL: "small",
        names.DIMENSIONS: 64,
        names.SERVER_ADDRESS: "127.0.0.1",
        names.SERVER_PORT: server.port,
        names.INPUT_TOKENS: answer.usage.embedding_tokens,
    }
    assert search.attributes == {
        names.OPERATION: "retrieval",
        names.PROVIDER: "ragcore",
        names.DATA_SOURCE: "MemoryStore",
        names.TOP_K: 5,
        names.MODE: "vector",
        names.PASSAGES: len(answer.retrieval.passages),
    }
    assert all(span.status.status_code is StatusCode.UNSET for span in recorded.ended)


async def test_a_sampler_sees_operation_provider_model_and_server(rag: RAG, recorded: Recorded) -> None:
    with recorded.telemetry():
        await rag.ask(QUESTION, tenant="m")
    seen = dict(recorded.sampler.seen)
    for name in (CHAT, EMBED):
        assert {names.OPERATION, names.PROVIDER, names.REQUEST_MODEL, names.SERVER_ADDRESS, names.SERVER_PORT} <= set(
            seen[name]
        )
    assert seen[ASK][names.OPERATION] == "invoke_workflow"
    assert seen[SEARCH][names.DATA_SOURCE] == "MemoryStore"


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.mistral.ai/v1", "mistral_ai"),
        ("https://x.openai.azure.com/openai", "azure.ai.openai"),
        ("https://notmistral.ai.example.org/v1", "openai"),
        ("http://localhost:8000/v1", "openai"),
    ],
)
def test_the_provider_follows_from_the_server(host: str, provider: str) -> None:
    from ragcore.contrib.otel.spans import beginning_of

    generator = ragcore.OpenAIGenerator("large", base_url=host, api_key="none")
    about = {"component": generator, "model": "large", "prompt": ragcore.Prompt("?")}
    assert beginning_of(operations.Operation("generate", about), content=False).attributes[names.PROVIDER] == provider


async def test_the_caller_is_the_parent_and_its_context_is_restored(rag: RAG, recorded: Recorded) -> None:
    with recorded.telemetry(), recorded.tracer().start_as_current_span("request") as request:
        await rag.ask(QUESTION, tenant="m")
        assert trace.get_current_span() is request
        assert operations.current() is operations.UNOBSERVED
    assert recorded.children(recorded.one("request")) == [ASK]


async def test_a_stream_read_in_other_tasks_keeps_its_parent_and_ends_with_the_stream(
    rag: RAG, recorded: Recorded
) -> None:
    got: list[Any] = []

    async def enter() -> None:
        with recorded.tracer().start_as_current_span("request"):
            context.attach(baggage.set_baggage("of", "the request"))
            got.append(rag.stream(QUESTION, tenant="m"))
            got.append(await got[0].__aenter__())

    async def read() -> None:
        with recorded.tracer().start_as_current_span("reader") as reader:
            async for _ in got[1]:
                assert trace.get_current_span() is reader
            assert STREAM in recorded.names()

    async def leave() -> None:
        await got[0].__aexit__(None, None, None)

    with recorded.telemetry():
        for step in (enter, read, leave):
            async with anyio.create_task_group() as group:
                group.start_soon(step)
    recorded.complete()
    assert recorded.children(recorded.one("request")) == [STREAM]
    assert recorded.children(recorded.one(STREAM)) == [CHAT, EMBED, SEARCH]
    assert recorded.children(recorded.one("reader")) == []


@pytest.mark.parametrize("how", ["left", "cancelled", "forgotten", "unread"])
async def test_the_spans_of_a_stream_end_however_it_ends(server: OpenAIServer, recorded: Recorded, how: str) -> None:
    server.token_latency = 0.02
    async with rag_of(server) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        with recorded.telemetry():
            if how == "forgotten":
                block = rag.stream(QUESTION, tenant="m", timeout=0.3)
                stream = await block.__aenter__()
                await anext(stream)
                await anext(stream)
                with anyio.fail_after(5):
                    while STREAM not in recorded.names() or CHAT not in recorded.names():
                        await anyio.sleep(0.01)
                await block.__aexit__(None, None, None)
            else:
                with anyio.CancelScope() as scope:
                    async with rag.stream(QUESTION, tenant="m") as stream:
                        if how == "unread":
                            pass
                        else:
                            await anext(stream)
                            await anext(stream)
                        if how == "cancelled":
                            scope.cancel()
                            await anext(stream)
    recorded.complete()
    whole = recorded.one(STREAM)
    assert whole.attributes is not None
    assert whole.attributes[names.ERROR_TYPE] == ("abandoned" if how == "forgotten" else "cancelled")
    assert whole.status.status_code is StatusCode.UNSET
    assert (CHAT in recorded.names()) == (how != "unread")


async def test_a_span_lasts_over_all_attempts_and_retries_are_its_events(
    rag: RAG, recorded: Recorded, server: OpenAIServer
) -> None:
    server.faults.next(Fail(503), None, Fail(503), Fail(503), None)
    with recorded.telemetry():
        await rag.ask(QUESTION, tenant="m")
    assert [event.name for event in recorded.one(EMBED).events] == ["retry.attempt"]
    assert [event.name for event in recorded.one(CHAT).events] == ["retry.attempt", "retry.attempt"]
    event = recorded.one(CHAT).events[1]
    assert event.attributes is not None
    assert (event.attributes[names.SOURCE], event.attributes["ragcore.attempt"]) == ("generation", 3)
    assert names.ERROR_TYPE not in (recorded.one(CHAT).attributes or {})
    recorded.complete()


async def test_a_stage_that_fails_has_its_error_and_the_call_has_the_degradation(
    rag: RAG, recorded: Recorded, server: OpenAIServer
) -> None:
    server.faults.always(Fail(401))
    with recorded.telemetry():
        answer = await rag.ask(QUESTION, tenant="m")
    assert [part.stage for part in answer.degraded] == ["embed", "generate"]
    for name, error in ((EMBED, "EmbeddingError"), (CHAT, "GenerationError")):
        span = recorded.one(name)
        assert span.attributes is not None
        assert (span.attributes[names.ERROR_TYPE], span.attributes[names.STATUS_CODE]) == (error, 401)
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description is None  # it may quote the request
    whole = recorded.one(ASK)
    assert whole.attributes is not None
    assert whole.attributes[names.OUTCOME] == "degraded"
    assert whole.attributes[names.DEGRADED] == ("embed", "generate")
    assert whole.status.status_code is StatusCode.UNSET
    assert [event.name for event in whole.events] == ["retriever.degraded", "generator.failed"]
    recorded.complete()


async def test_a_call_past_its_deadline_says_so_in_each_span(server: OpenAIServer, recorded: Recorded) -> None:
    async with rag_of(server) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        server.faults.next(None, Hang())
        with recorded.telemetry(), pytest.raises(ragcore.DeadlineExceeded):
            await rag.ask(QUESTION, tenant="m", timeout=0.2, degrade=False)
    recorded.complete()
    for name in (ASK, CHAT):
        assert (recorded.one(name).attributes or {})[names.ERROR_TYPE] == "DeadlineExceeded"
        assert recorded.one(name).status.status_code is StatusCode.ERROR


async def test_a_refusal_of_the_breaker_is_an_event_and_an_error(
    rag: RAG, recorded: Recorded, server: OpenAIServer
) -> None:
    breaker = rag.retriever.embedder.policy.breaker("small")  # type: ignore[union-attr]
    breaker.isolate()
    with recorded.telemetry():
        await rag.ask(QUESTION, tenant="m")
    embed = recorded.one(EMBED)
    assert (embed.attributes or {})[names.ERROR_TYPE] == "CircuitOpen"
    assert "breaker.rejected" in [event.name for event in embed.events]
    recorded.complete()


async def test_a_request_for_several_questions_has_links_to_their_spans(
    rag: RAG, recorded: Recorded, server: OpenAIServer
) -> None:
    with recorded.telemetry():
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(partial(rag.retrieve, f"{QUESTION} {number}", tenant="m"))
    recorded.complete()
    embeddings = recorded.of(EMBED)
    (shared,) = [span for span in embeddings if span.parent is None]
    own = [span for span in embeddings if span.parent is not None]
    assert len(own) == 3
    assert {link.context.span_id for link in shared.links} == {span.context.span_id for span in own}
    assert all([link.context.span_id for link in span.links] == [shared.context.span_id] for span in own)
    assert (shared.attributes or {})[names.CALLERS] == 3
    assert names.CALLERS not in (own[0].attributes or {})
    assert len({span.context.trace_id for span in embeddings}) == 4
    (measured,) = recorded.metrics()[names.EMBEDDINGS_DURATION]
    assert measured.count == 3


async def test_a_request_for_one_question_is_a_part_of_its_span(
    rag: RAG, recorded: Recorded, server: OpenAIServer
) -> None:
    server.faults.next(Fail(503))
    with recorded.telemetry():
        await rag.retrieve(QUESTION, tenant="m")
    assert [event.name for event in recorded.one(EMBED).events] == ["retry.attempt"]


async def test_reranking_is_a_span_within_the_retrieval(recorded: Recorded) -> None:
    async with fake_rag(reranker=FakeReranker()) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        with recorded.telemetry():
            await rag.retrieve(QUESTION, tenant="m")
    rerank = recorded.one(f"rerank {FakeReranker.model}")
    assert rerank.parent is not None
    assert rerank.parent.span_id == recorded.one("retrieval FakeStore").context.span_id
    assert (rerank.attributes or {})[names.CANDIDATES] == 2


async def test_adding_documents_has_a_span_for_each_batch_of_embeddings(
    server: OpenAIServer, recorded: Recorded
) -> None:
    async with rag_of(server) as rag:
        with recorded.telemetry():
            await rag.add(DOCUMENTS, tenant="m")
    add = recorded.one("ragcore add")
    assert recorded.children(add) == [EMBED]
    assert add.kind is SpanKind.INTERNAL
    recorded.complete()


async def test_texts_are_in_spans_only_if_they_are_allowed(rag: RAG, recorded: Recorded) -> None:
    with recorded.telemetry():
        await rag.ask(QUESTION, tenant="tenant-7")
        await rag.ask(QUESTION, tenant="m")
    told = "".join(span.to_json() for span in recorded.ended)
    assert "deductible" not in told
    assert "1,500" not in told
    assert "tenant-7" not in told
    recorded.ended.clear()
    with recorded.telemetry(content=True):
        answer = await rag.ask(QUESTION, tenant="m")
    chat, search, whole = (recorded.one(name).attributes or {} for name in (CHAT, SEARCH, ASK))
    (question,) = json.loads(str(chat[names.INPUT_MESSAGES]))
    assert question["role"] == "user"
    assert QUESTION in question["parts"][0]["content"]
    assert json.loads(str(chat[names.SYSTEM_INSTRUCTIONS]))[0]["type"] == "text"
    assert json.loads(str(chat[names.OUTPUT_MESSAGES])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": answer.text}], "finish_reason": "stop"}
    ]
    assert search[names.QUERY_TEXT] == QUESTION
    documents = json.loads(str(search[names.DOCUMENTS]))
    assert [one["id"] for one in documents] == [passage.chunk_id for passage in answer.retrieval.passages]
    assert whole[names.TENANT] == "m"


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (None, False),
        ("", False),
        ("false", False),
        ("NO_CONTENT", False),
        ("EVENT_ONLY", False),
        ("true", True),
        ("SPAN_ONLY", True),
        ("span_and_event", True),
    ],
)
def test_the_environment_decides_about_texts(monkeypatch: pytest.MonkeyPatch, value: str | None, content: bool) -> None:
    variable = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    monkeypatch.delenv(variable, raising=False)
    if value is not None:
        monkeypatch.setenv(variable, value)
    assert Telemetry.from_env().content is content


def test_an_unknown_value_in_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "yes please")
    with pytest.raises(ragcore.ConfigurationError, match="span_only"):
        Telemetry.from_env()
    with pytest.raises(ragcore.ConfigurationError, match="'find'"):
        Telemetry(leave_out=["find"])  # type: ignore[list-item]


async def test_metrics_have_the_conventions_names_and_no_texts(rag: RAG, recorded: Recorded) -> None:
    with recorded.telemetry():
        answer = await rag.ask(QUESTION, tenant="m")
    points = recorded.metrics()
    assert set(points) == {
        names.CHAT_DURATION,
        names.CHAT_FIRST_CHUNK,
        names.CHAT_INPUT_TOKENS,
        names.CHAT_OUTPUT_TOKENS,
        names.EMBEDDINGS_DURATION,
    }
    assert points[names.CHAT_OUTPUT_TOKENS][0].value == answer.usage.completion_tokens
    assert points[names.CHAT_DURATION][0].count == 1
    for one in points.values():
        assert set(one[0].attributes) <= {
            names.OPERATION,
            names.PROVIDER,
            names.REQUEST_MODEL,
            names.RESPONSE_MODEL,
            names.SERVER_ADDRESS,
            names.SERVER_PORT,
        }


async def test_nothing_is_traced_before_and_after(rag: RAG, recorded: Recorded) -> None:
    await rag.ask(QUESTION, tenant="m")
    with recorded.telemetry() as telemetry:
        telemetry.install()  # a second time
        async with rag.stream(QUESTION, tenant="m") as stream:
            telemetry.uninstall()
            await stream.answer()
    await rag.ask(QUESTION, tenant="m")
    assert recorded.names() == [EMBED, STREAM, SEARCH]
    recorded.complete()


async def test_a_tracer_that_fails_does_not_harm_a_call(rag: RAG, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(trace.TracerProvider):
        def get_tracer(self, *args: Any, **more: Any) -> trace.Tracer:
            return self  # type: ignore[return-value]

        def start_span(self, *args: Any, **more: Any) -> trace.Span:
            raise RuntimeError("no span")

    with Telemetry(tracer_provider=Failing()):
        answer = await rag.ask(QUESTION, tenant="m")
    assert answer.found
    assert "an observer of ragcore's operations raised an exception" in caplog.text


FAULTS = st.sampled_from([None, Fail(503), Fail(OSError()), Hang(), Slow(0.01), Broken()])


@given(
    embedding=FAULTS,
    generation=FAULTS,
    method=st.sampled_from(["ask", "stream", "retrieve"]),
    leave_after=st.integers(0, 4),
    cancel_after=st.sampled_from([None, 0.0, 0.001, 0.01]),
    degrade=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
async def test_each_span_ends_once_whatever_happens(
    embedding: Any, generation: Any, method: str, leave_after: int, cancel_after: float | None, degrade: bool
) -> None:
    recorded, embedder, generator = Recorded(), FakeEmbedder(), FakeGenerator()
    async with fake_rag(embedder=embedder, generator=generator, settings=Settings(watchdog=False, timeout=0.05)) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        embedder.faults.always(embedding)
        generator.faults.always(generation)
        with recorded.telemetry(), recorded.tracer().start_as_current_span("request") as request:
            with anyio.move_on_after(cancel_after), suppress(ragcore.RagcoreError):
                if method == "stream":
                    async with rag.stream(QUESTION, tenant="m", degrade=degrade) as stream:
                        for _ in range(leave_after):
                            await anext(stream, None)
                elif method == "ask":
                    await rag.ask(QUESTION, tenant="m", degrade=degrade)
                else:
                    await rag.retrieve(QUESTION, tenant="m", degrade=degrade)
            assert trace.get_current_span() is request
            assert operations.current() is operations.UNOBSERVED
    recorded.complete()
    traces = {span.context.trace_id for span in recorded.ended}
    assert len(traces) == 1

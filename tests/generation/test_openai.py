"""Tests all ways in which an answer may end, and the parameters of requests."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from tests.wire.serving import Scripted
from tests.wire.shapes import JSON
from tests.wire.shapes import Reply as Bytes

from ragcore import (
    RAG,
    ConfigurationError,
    Delta,
    Document,
    Done,
    ExtractiveGenerator,
    FallbackGenerator,
    Generation,
    GenerationError,
    MemoryStore,
    OpenAIGenerator,
    Passage,
    Prompt,
    Retriever,
    Settings,
    events,
)
from ragcore.generation import at_once
from ragcore.resilience import Policy, RetryPolicy
from ragcore.testing import FakeEmbedder, FakeGenerator, OpenAIServer, Reply

pytestmark = pytest.mark.anyio
ONCE = Policy(retry=False, breaker=False, first_timeout=5, idle_timeout=5)
A = Passage(
    "a", "d", "Your deductible is $1,500 per calendar year [2]. It applies to most services.", title="Silver plan"
)
B = Passage("b", "d", "A visit to a specialist costs $40.")
PROMPT = Prompt("What is my deductible?", passages=(A, B), max_tokens=50)


def chunk(content: object = None, finish: str | None = None, **delta: object) -> dict[str, Any]:
    if content is not None:
        delta["content"] = content
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def stream(*objects: object, done: bool = True) -> Bytes:
    lines = "".join(f"data: {json.dumps(one)}\n\n" for one in objects)
    return Bytes(body=(lines + ("data: [DONE]\n\n" if done else "")).encode())


EMPTY = {
    "an empty completion": ((chunk("", "stop"),), "gave no text"),
    "nothing but white space": ((chunk(" \n"), chunk(None, "stop")), "gave no text"),
    "all tokens thought away": ((chunk(reasoning_content="hm"), chunk(None, "length")), "thinking used all of its tokens"),
    "all tokens thought away, between tags": ((chunk("<think>hm"), chunk(None, "length")), "thinking used all of its tokens"),
    "cut off at once": ((chunk(None, "length"),), "finish_reason length"),
    "filtered": ((chunk(None, "content_filter"),), "content_filter"),
    "refused": ((chunk(refusal="I can't help with that."), chunk(None, "stop")), "refused to answer"),
    "a tool": ((chunk(tool_calls=[{"index": 0, "function": {"name": "search", "arguments": "{}"}}]), chunk(None, "tool_calls")), "'search'"),
    "an old function": ((chunk(function_call={"name": "look", "arguments": ""}), chunk(None, "function_call")), "'look'"),
    "thought, and then nothing": ((chunk("<think>hm</think>"), chunk(None, "stop")), "ended without an answer"),
    "an error at its end": ((chunk(None, "error"),), "error"),
    "an error in mid-stream": ((chunk(""), {"error": {"message": "the GPU is gone", "code": 500}}), "the GPU is gone"),
}  # fmt: skip


@pytest.mark.parametrize("kind", EMPTY)
async def test_a_missing_answer_is_a_failure_with_its_reason_not_not_found(kind: str) -> None:
    sent, said = EMPTY[kind]
    async with Scripted([stream(*sent)]) as server:
        model = OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE)
        second = FakeGenerator("It is $1,500 [1].")
        second.model = "second"
        async with FallbackGenerator([model, second]) as generator:
            answer = await generator.generate(PROMPT)
            assert answer.text == "It is $1,500 [1]."
            assert [part.fallback for part in answer.degraded] == ["second"]
            assert said in answer.degraded[0].reason
        async with RAG(retriever=Retriever(store=MemoryStore(), embedder=FakeEmbedder()), generator=model) as rag:
            await rag.add([ragdocument()], tenant="t")
            answered = await rag.ask("What is my deductible?", tenant="t")
        assert answered.found
        assert answered.text.startswith("Your deductible is $1,500")
        assert said in answered.degraded[0].reason
        assert answered.degraded[0].fallback == "extractive"


def ragdocument() -> Any:
    from ragcore import Document

    return Document("d", A.text)


@pytest.mark.parametrize(
    "reason", ["length", "content_filter", "model_length", "insufficient_system_resource", "MAX_TOKENS", "whatever"]
)
async def test_a_partial_answer_is_marked(reason: str) -> None:
    async with Scripted([stream(chunk("Your deductible is"), chunk(None, reason))]) as server:
        model = OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE)
        async with RAG(retriever=Retriever(store=MemoryStore(), embedder=FakeEmbedder()), generator=model) as rag:
            await rag.add([ragdocument()], tenant="t")
            answer = await rag.ask("What is my deductible?", tenant="t")
            async with rag.stream("What is my deductible?", tenant="t") as opened:
                streamed = await opened.answer()
    for one in (answer, streamed):
        assert (one.text, one.finish_reason, one.complete, one.found) == ("Your deductible is", reason, False, True)


@pytest.mark.parametrize("end", ["close", "reset", "short"])
async def test_a_broken_connection_fails_the_answer_only_before_its_end(end: str) -> None:
    whole = (chunk("It is "), chunk("$1,500 [1].", "stop"))
    for sent in (stream(*whole, done=False), stream(*whole), stream(chunk("It is $1,500 [1]."))):
        async with (
            Scripted([sent], end=end) as server,
            OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
        ):
            answer = await generator.generate(PROMPT)
            assert (answer.text, answer.complete) == ("It is $1,500 [1].", True)
    async with (
        Scripted([stream(chunk("It is "), chunk("$1,5"), done=False)], end=end) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
    ):
        with pytest.raises(GenerationError):
            await generator.generate(PROMPT)


async def test_a_finish_reason_with_every_piece_does_not_end_the_answer() -> None:
    pieces = [chunk(text, "stop") for text in ("It is ", "$1,500 ", "[1].")]
    async with (
        Scripted([stream(*pieces)], cuts=[60]) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
    ):
        assert (await generator.generate(PROMPT)).text == "It is $1,500 [1]."
    async with (
        Scripted([stream(*pieces, done=False)], cuts=[60], end="reset") as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
    ):
        with pytest.raises(GenerationError):
            await generator.generate(PROMPT)


@pytest.mark.slow
async def test_a_server_that_is_silent_after_the_end_does_not_block_the_caller() -> None:
    class Hanging(Scripted):
        async def _send(self, stream: Any, reply: Any) -> None:
            head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n"
            await stream.send(head.encode() + b"%x\r\n%s\r\n" % (len(reply.body), reply.body))
            await anyio.sleep_forever()

    sent = stream(chunk("It is "), chunk("$1,500 [1]."), chunk(None, "stop"), done=False)
    async with (
        Hanging([sent]) as server2,
        OpenAIGenerator("m", base_url=server2.base_url, api_key="k", policy=ONCE) as generator,
    ):
        with anyio.fail_after(4.5):  # the idle timeout is 5 s
            assert (await generator.generate(PROMPT)).text == "It is $1,500 [1]."


@pytest.mark.parametrize("together", [True, False])
async def test_a_short_answer_is_kept_if_the_stream_stays_open(together: bool) -> None:
    class Hanging(Scripted):
        async def _send(self, stream: Any, reply: Any) -> None:
            head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n"
            await stream.send(head.encode() + b"%x\r\n%s\r\n" % (len(reply.body), reply.body))
            await anyio.sleep_forever()

    events = [chunk("It is $1,500 [1].", "stop")] if together else [chunk("It is $1,500 [1]."), chunk(None, "stop")]
    policy = Policy(retry=False, first_timeout=5, idle_timeout=1)
    async with (
        Hanging([stream(*events, done=False)]) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=policy) as generator,
    ):
        assert (await generator.generate(PROMPT)).text == "It is $1,500 [1]."


async def test_odd_events_and_bytes_do_not_break_an_answer() -> None:
    first = json.dumps({**chunk("It is \u00e9"), "x_groq": "req"}).encode()
    second = json.dumps(chunk(" $40 [1].", "null")).encode()
    body = (
        b"data: "
        + first
        + b"\n\ndata: "
        + second.replace(b"$", b"\xff$")
        + b"\n\ndata: "
        + json.dumps(chunk("", "stop")).encode()
        + b"\n\n"
    )
    async with (
        Scripted([Bytes(body=body)]) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
    ):
        assert (await generator.generate(PROMPT)).text == "It is \u00e9 \ufffd$40 [1]."


VALUES = {
    "max_tokens": ("max_tokens is too large: 5000. This model supports at most 4096 completion tokens", "invalid_value"),
    "temperature": ("temperature must be in [0, 1]", ""),
    "stop": ("Invalid 'stop[0]': string too long", "string_above_max_length"),
}  # fmt: skip


@pytest.mark.parametrize("parameter", VALUES)
async def test_a_refused_value_of_one_caller_does_not_change_other_callers_requests(parameter: str) -> None:
    said, code = VALUES[parameter]
    body = json.dumps({"error": {"message": said, "param": parameter, "code": code}}).encode()
    async with (
        Scripted([Bytes(body=body, status=400, headers=JSON), stream(chunk("It is $40 [1].", "stop"))]) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
    ):
        with pytest.raises(GenerationError):
            await generator.generate(Prompt("q", passages=(A,), max_tokens=5_000, temperature=1.5, stop=("x" * 99,)))
        await generator.generate(Prompt("q", passages=(A,), max_tokens=50, temperature=0.5, stop=("y",)))
    assert (server.requests[1]["max_tokens"], server.requests[1]["temperature"], server.requests[1]["stop"]) == (
        50,
        0.5,
        ["y"],
    )


async def test_a_refusal_seen_by_many_requests_emits_one_event() -> None:
    refusal = Bytes(
        body=json.dumps({"error": {"message": REFUSED["max_tokens"][0], "param": "max_tokens"}}).encode(),
        status=400,
        headers=JSON,
    )

    class Picky(Scripted):
        async def _send(self, stream: Any, reply: Any) -> None:
            await anyio.sleep(0.02)
            await super()._send(stream, refusal if "max_tokens" in self.requests[-1] else reply)

    heard: list[str] = []
    stop = events.subscribe(lambda event: heard.append(event.name))
    async with (
        Picky([stream(chunk("It is $1,500 [1].", "stop"))]) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
        anyio.create_task_group() as group,
    ):
        for _ in range(10):
            group.start_soon(generator.generate, PROMPT)
    stop()
    assert heard.count("model.parameter_refused") == 1


async def test_not_found_at_the_end_of_reasons_is_not_found_in_a_stream_too() -> None:
    sent = stream(chunk("The passages say nothing of it. "), chunk("NOT_"), chunk("FOUND"), chunk(None, "stop"))
    async with Scripted([sent], cuts=[40]) as server:
        model = OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE)
        async with RAG(retriever=Retriever(store=MemoryStore(), embedder=FakeEmbedder()), generator=model) as rag:
            await rag.add([ragdocument()], tenant="t")
            answer = await rag.ask("What is my deductible?", tenant="t")
            assert (answer.found, answer.text, answer.degraded) == (False, rag.settings.not_found, ())
            shown = ""
            async with rag.stream("What is my deductible?", tenant="t") as opened:
                async for event in opened:
                    if isinstance(event, Delta):
                        shown += event.text
                    if isinstance(event, Done):
                        assert event.answer.found is False
            assert "NOT" not in shown
            assert shown.endswith(rag.settings.not_found)


async def test_thinking_is_not_text_and_its_numbers_are_not_citations() -> None:
    sent = stream(chunk("<think>Is it in [2]? NOT_FOUND?</think>"), chunk("It is $1,500 [1]."), chunk(None, "stop"))
    async with Scripted([sent], cuts=[7]) as server:
        model = OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE)
        async with model:
            answer = await model.generate(PROMPT)
    assert (answer.text, answer.reasoning) == ("It is $1,500 [1].", "Is it in [2]? NOT_FOUND?")


async def test_a_model_that_sends_only_a_closing_tag_is_known_after_its_first_answer() -> None:
    sent = stream(chunk("It is in [2]."), chunk("</think>\n\nIt is $1,500 [1]."), chunk(None, "stop"))
    async with (
        Scripted([sent], cuts=[30]) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
    ):
        assert (await generator.generate(PROMPT)).text == "It is $1,500 [1]."
        shown = ""
        async with generator.stream(PROMPT) as pieces:
            async for piece in pieces:
                shown += piece if isinstance(piece, str) else ""
        assert shown == "It is $1,500 [1]."


async def test_a_custom_generator_that_is_cut_off_without_text_has_failed() -> None:
    class Cut(FakeGenerator):
        def stream(self, prompt: Prompt, /) -> Any:
            async def made() -> Generation:
                return Generation("", finish_reason="content_filter")

            return at_once(made())

    async with FallbackGenerator([Cut(), ExtractiveGenerator()]) as generator:
        answer = await generator.generate(PROMPT)
    assert answer.text.startswith("Your deductible is $1,500")
    assert "content_filter" in answer.degraded[0].reason


REFUSED = {
    "max_tokens": ("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", "max_completion_tokens"),
    "temperature": ("Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is supported.", None),
    "stream_options": ("Unrecognized request argument supplied: stream_options", None),
    "top_p": ("unknown field `top_p`", None),
}  # fmt: skip


@pytest.mark.parametrize("parameter", REFUSED)
async def test_a_refused_parameter_is_omitted_or_renamed_from_then_on(parameter: str) -> None:
    said, instead = REFUSED[parameter]
    refusal = Bytes(
        body=json.dumps({"error": {"message": said, "type": "invalid_request_error"}}).encode(),
        status=400,
        headers=JSON,
    )
    good = stream(chunk("It is $1,500 [1].", "stop"))
    heard: list[events.Event] = []
    stop = events.subscribe(heard.append)
    try:
        async with (
            Scripted([refusal, good]) as server,
            OpenAIGenerator(
                "alias", base_url=server.base_url, api_key="k", policy=ONCE, parameters={"top_p": 0.9}
            ) as generator,
        ):
            for _ in range(2):
                assert (await generator.generate(PROMPT)).text == "It is $1,500 [1]."
    finally:
        stop()
    assert len(server.requests) == 3
    for request in server.requests[1:]:
        assert parameter not in request
        assert instead is None or request[instead] == 50
    named = [event for event in heard if event.name == "model.parameter_refused"]
    assert [(event.source, event.data["parameter"], event.data["instead"]) for event in named] == [
        ("alias", parameter, instead)
    ]


async def test_fifty_concurrent_callers_learn_the_same_refusal() -> None:
    refusal = Bytes(
        body=json.dumps({"error": {"message": REFUSED["max_tokens"][0], "param": "max_tokens"}}).encode(),
        status=400,
        headers=JSON,
    )

    class Picky(Scripted):
        async def _send(self, stream: Any, reply: Any) -> None:
            await super()._send(stream, refusal if "max_tokens" in self.requests[-1] else reply)

    async with (
        Picky([stream(chunk("It is $1,500 [1].", "stop"))]) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
    ):
        answers: list[str] = []

        async def ask() -> None:
            answers.append((await generator.generate(PROMPT)).text)

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(ask)
        asked = len(server.requests)
        await ask()
        assert answers == ["It is $1,500 [1]."] * 51
        assert 50 < asked <= 100  # each caller was refused at most once
        assert len(server.requests) == asked + 1
        assert "max_tokens" not in server.requests[-1]


async def test_a_server_that_refuses_everything_gets_at_most_one_request_per_parameter() -> None:
    refusal = Bytes(
        body=b'{"error": {"message": "unsupported: temperature, max_tokens, stream_options"}}', status=400, headers=JSON
    )
    async with (
        Scripted([refusal]) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
    ):
        with pytest.raises(GenerationError, match="unsupported"):
            await generator.generate(PROMPT)
    assert len(server.requests) <= 8


@pytest.mark.parametrize("role", ["developer", None])
async def test_a_refused_system_role_is_replaced(role: str | None) -> None:
    hint = " Use 'developer' instead." if role else ""
    said = f"Unsupported value: 'messages[0].role' does not support 'system' with this model.{hint}"
    refusal = Bytes(
        body=json.dumps({"error": {"message": said, "param": "messages[0].role"}}).encode(), status=400, headers=JSON
    )
    async with (
        Scripted([refusal, stream(chunk("It is $1,500 [1].", "stop"))]) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
    ):
        await generator.generate(PROMPT)
    messages = server.requests[1]["messages"]
    assert messages[0]["role"] == (role or "user")
    assert "reply with exactly NOT_FOUND" in messages[0]["content"]


async def test_custom_parameters_bodies_and_headers_are_sent() -> None:
    good = stream(chunk("It is $1,500 [1].", "stop"))
    async with (
        Scripted([good]) as server,
        OpenAIGenerator(
            "m", base_url=server.base_url, api_key="k", policy=ONCE,
            parameters={"top_p": 0.5, "temperature": None, "max_tokens": 300},
            extra_body={"guided": {"a": 1}},
            extra_headers={"X-Team": "claims"},
        ) as generator,
    ):  # fmt: skip
        await generator.generate(Prompt("q", passages=(A,), max_tokens=800, max_tokens_from="settings"))
        await generator.generate(Prompt("q", passages=(A,), max_tokens=70, temperature=0.7, stop=("END",)))
    first, second = server.requests
    assert (first["top_p"], first["max_tokens"], first["guided"]) == (0.5, 300, {"a": 1})
    assert "temperature" not in first
    assert (second["max_tokens"], second["temperature"], second["stop"]) == (70, 0.7, ["END"])
    assert "x-team: claims" in server.heads[0].lower()
    bad: list[dict[str, Any]] = [{"messages": []}, {"top_p": {1, 2}}]
    for wrong in bad:
        with pytest.raises(ConfigurationError):
            OpenAIGenerator("m", api_key="k", parameters=wrong)


async def test_a_model_that_uses_all_tokens_for_thinking_gets_more_the_next_time() -> None:
    thought = stream(chunk(reasoning_content="hm"), chunk(None, "length"))
    async with (
        Scripted([thought, stream(chunk("It is $1,500 [1].", "stop"))]) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
    ):
        prompt = Prompt("q", passages=(A,), max_tokens=800, max_tokens_from="settings")
        with pytest.raises(GenerationError, match="thinking used all of its tokens"):
            await generator.generate(prompt)
        assert (await generator.generate(prompt)).text == "It is $1,500 [1]."
    assert [request["max_tokens"] for request in server.requests] == [800, 4_800]


async def test_a_call_chooses_its_own_limit_temperature_and_stops() -> None:
    async with OpenAIServer(text="It is $1,500 [1].") as server:
        model = OpenAIGenerator("fake", base_url=server.base_url, api_key="k", policy=ONCE)
        async with RAG(
            retriever=Retriever(store=MemoryStore(), embedder=FakeEmbedder()),
            generator=model,
            settings=Settings(max_tokens=90),
        ) as rag:
            await rag.add([ragdocument()], tenant="t")
            await rag.ask("What is my deductible?", tenant="t")
            await rag.for_tenant("t").ask("What is my deductible?", max_tokens=7, temperature=1, stop="END")
            for wrong in (
                {"max_tokens": 0},
                {"temperature": 3},
                {"stop": [""]},
                {"stop": ["a"] * 5},
                {"temperature": True},
            ):
                with pytest.raises(Exception, match=next(iter(wrong))):
                    await rag.ask("q", tenant="t", **wrong)
    asked = [body for path, body in server.requests if path.endswith("completions")]
    assert [(body["max_tokens"], body["temperature"], body.get("stop")) for body in asked] == [
        (90, 0.0, None),
        (7, 1, ["END"]),
    ]


async def test_an_error_event_before_the_answer_is_retried() -> None:
    failed = Reply(200, b'data: {"error": {"message": "busy", "code": 503}}\n\n', {"content-type": "text/event-stream"})
    role_then_failed = Reply(
        200,
        stream(chunk("", role="assistant"), {"error": {"message": "busy", "code": 503}}).body,
        {"content-type": "text/event-stream"},
    )
    async with OpenAIServer(text="It is $1,500 [1].") as server:
        server.faults.next(failed, role_then_failed, None)
        policy = Policy(retry=RetryPolicy(attempts=3, backoff=0, max_backoff=0))
        async with OpenAIGenerator("fake", base_url=server.base_url, api_key="k", policy=policy) as generator:
            assert (await generator.generate(PROMPT)).text == "It is $1,500 [1]."


SCHEMA = {
    "type": "object",
    "properties": {"deductible": {"type": "integer"}},
    "required": ["deductible"],
    "additionalProperties": False,
}
STRUCTURED = Prompt("What is my deductible?", passages=(A, B), schema=SCHEMA)
REPLY = json.dumps({"answer": "It is $1,500 [1].", "data": {"deductible": 1500}})


def formats(server: Scripted) -> list[object]:
    """The `response_format` of each request: its type, and whether it is strict."""
    sent = [request.get("response_format") for request in server.requests]
    return [one and (one["type"], one.get("json_schema", {}).get("strict")) for one in sent]


async def test_a_schema_is_sent_as_a_strict_response_format_if_it_requires_each_property() -> None:
    optional = {"type": "object", "properties": {"deductible": {"type": "integer"}}}
    async with Scripted([stream(chunk(REPLY), chunk(None, "stop"))]) as server:
        async with OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as model:
            assert (await model.generate(STRUCTURED)).text == REPLY
            await model.generate(Prompt("q", passages=(A,), schema=optional))
            await model.generate(PROMPT)
    assert formats(server) == [("json_schema", True), ("json_schema", False), None]
    described = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert described["properties"]["data"]["anyOf"] == [SCHEMA, {"type": "null"}]
    assert '"deductible"' in server.requests[0]["messages"][0]["content"]


REFUSALS = {
    "OpenAI, an old model": ("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.", "response_format"),
    "DeepSeek": ("This response_format type is unavailable now", None),
    "a strict server": ("[{'type': 'extra_forbidden', 'loc': ('body', 'response_format'), 'msg': 'Extra inputs are not permitted'}]", None),
    "vLLM without a backend": ("structured outputs are not supported by this engine", None),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_refused_response_format_is_replaced_for_all_later_requests(kind: str) -> None:
    message, parameter = REFUSALS[kind]
    error = {"error": {"message": message, "type": "invalid_request_error", "param": parameter}}
    refused = Bytes(status=400, body=json.dumps(error).encode(), headers=JSON)
    good = stream(chunk(REPLY), chunk(None, "stop"))
    async with Scripted([refused, refused, good, good, refused, good]) as server:
        async with OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as model:
            for _ in range(3):
                assert (await model.generate(STRUCTURED)).text == REPLY
    assert formats(server) == [
        ("json_schema", True),
        ("json_schema", False),
        ("json_object", None),
        ("json_object", None),
        ("json_object", None),
        None,
    ]


@pytest.mark.parametrize(
    "message",
    [
        "Invalid schema for response_format 'answer': In context=('properties', 'x'), 'oneOf' is not permitted.",
        "Failed to compile json_schema grammar: unsupported regex",
        "JSON schema conversion failed: unresolved reference",
    ],
)
async def test_a_refused_schema_does_not_change_the_requests_of_others(message: str) -> None:
    error = {"error": {"message": message, "type": "invalid_request_error", "param": "response_format"}}
    refused = Bytes(status=400, body=json.dumps(error).encode(), headers=JSON)
    good = stream(chunk(REPLY), chunk(None, "stop"))
    async with Scripted([refused, good, good]) as server:
        async with OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as model:
            for _ in range(2):
                assert (await model.generate(STRUCTURED)).text == REPLY
    assert formats(server) == [("json_schema", True), None, ("json_schema", True)]


async def test_the_operators_own_response_format_stays_without_a_schema() -> None:
    own = {"response_format": {"type": "text"}}
    async with Scripted([stream(chunk("x"), chunk(None, "stop"))]) as server:
        async with OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE, parameters=own) as model:
            await model.generate(PROMPT)
            await model.generate(STRUCTURED)
    assert formats(server) == [("text", None), ("json_schema", True)]


async def test_a_structured_answer_is_repaired_over_real_requests() -> None:
    bad = (
        "<think>They want JSON.</think>```json\n"
        + json.dumps({"answer": "x", "data": {"deductible": "much"}})
        + "\n```"
    )
    good = "<think>Now right.</think>Here:\n```json\n" + REPLY + "\n```"
    replies = [stream(chunk(text), chunk(None, "stop")) for text in (bad, good)]
    async with Scripted(replies) as server:
        model = OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE)
        retriever = Retriever(store=MemoryStore(), embedder=FakeEmbedder())
        async with RAG(retriever=retriever, generator=model, settings=Settings(watchdog=False)) as rag:
            await rag.add([Document("plan", "Your deductible is $1,500 per year.")], tenant="m")
            answer = await rag.ask("What is my deductible?", tenant="m", schema=SCHEMA)
    assert (answer.data, answer.text, len(answer.citations)) == ({"deductible": 1500}, "It is $1,500 [1].", 1)
    roles = [message["role"] for message in server.requests[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert "data.deductible" in server.requests[1]["messages"][-1]["content"]

"""The OpenAI embedder and generator with servers that fail or misbehave."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import numpy as np
import pytest
from tests.wire.serving import Scripted
from tests.wire.shapes import Reply

from ragcore import (
    ConfigurationError,
    EmbeddingError,
    GenerationError,
    OpenAIEmbedder,
    OpenAIGenerator,
    Passage,
    Prompt,
    Secret,
)
from ragcore.resilience import CircuitBreaker, Policy, RetryPolicy
from ragcore.testing import Fail, OpenAIServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Like asyncpg, the SDK is supported on asyncio only."""
    return "asyncio"


QUICK = RetryPolicy(attempts=3, backoff=0.0, max_backoff=0.01)


@pytest.fixture
async def embedder(openai_server: OpenAIServer) -> AsyncIterator[OpenAIEmbedder]:
    policy = Policy("embedding", retry=QUICK, breaker=CircuitBreaker(minimum_throughput=100))
    made = OpenAIEmbedder(
        "fake", dimension=64, base_url=openai_server.base_url, api_key=Secret("sk-canary"), policy=policy
    )
    async with made:
        yield made


def answering(body: bytes, *, status: int = 200) -> Scripted:
    """Run a server that answers each request with the same JSON."""
    return Scripted([Reply(body=body, status=status, headers={"content-type": "application/json"})])


def vectors(*embeddings: object, **changes: Any) -> bytes:
    data = [
        {"object": "embedding", "index": index, "embedding": embedding} for index, embedding in enumerate(embeddings)
    ]
    return json.dumps({"object": "list", "data": data, **changes}).encode()


GOOD = [0.6, 0.8, 0.0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>Bad gateway</html>", "not JSON"),
        (b'{"data": [', "not JSON"),
        (b"[]", "not an object"),
        (b"{}", "no embeddings"),
        (b"[" * 60_000, "not JSON"),
        (vectors(), "0 embeddings for 1 texts"),
        (vectors(GOOD, GOOD), "2 embeddings"),
        (vectors([0.6, 0.8]), "shape"),
        (vectors([0.0, 0.0, 0.0]), "zero"),
        (vectors([float("nan"), 0.0, 0.0]), "not finite"),
        (vectors("not base64!"), "neither numbers nor base64"),
        (vectors(""), "shape"),
        (vectors(None), "returned vectors of shape"),
        (vectors({"a": 1}), "neither numbers nor base64"),
        (json.dumps({"data": [7]}).encode(), "not an object"),
        (json.dumps({"data": [{"index": 5, "embedding": GOOD}]}).encode(), "indices"),
    ],
)
async def test_an_invalid_response_with_status_200_is_an_error_and_counts(body: bytes, said: str) -> None:
    policy = Policy(retry=RetryPolicy(attempts=2, backoff=0, max_backoff=0))
    async with (
        answering(body) as server,
        OpenAIEmbedder("m", dimension=3, base_url=server.base_url, api_key="k", policy=policy) as embedder,
    ):
        with pytest.raises(EmbeddingError, match=said) as caught:
            await embedder.embed(["a"], kind="document")
    assert (caught.value.attempts, len(server.requests)) == (2, 2)
    assert policy.snapshot()["keys"]["m"]["failure"] == 2


async def test_floats_base64_and_any_order_are_accepted() -> None:
    packed = base64.b64encode(np.array(GOOD, "<f4").tobytes()).decode()
    body = json.dumps({"data": [{"index": 1, "embedding": [1.0, 0, 0]}, {"index": 0, "embedding": packed}]}).encode()
    async with (
        answering(body) as server,
        OpenAIEmbedder("m", dimension=3, base_url=server.base_url, api_key="k") as embedder,
    ):
        made = await embedder.embed(["a", "b"], kind="document")
    assert made.dtype == np.float32
    assert made[0] == pytest.approx(GOOD)
    assert made[1] == pytest.approx([1, 0, 0])


@pytest.mark.parametrize(
    ("status", "attempts"), [(400, 1), (401, 1), (404, 1), (422, 1), (429, 3), (500, 3), (503, 3), (529, 3)]
)
async def test_retries_depend_on_the_status(
    embedder: OpenAIEmbedder, openai_server: OpenAIServer, status: int, attempts: int
) -> None:
    openai_server.faults.always(Fail(status))
    with pytest.raises(EmbeddingError) as caught:
        await embedder.embed(["a"], kind="document")
    error = caught.value
    assert (error.status, error.attempts, error.stage) == (status, attempts, "embed")
    assert error.request_id
    assert error.__cause__ is not None
    assert "canary" not in str(error)


async def test_insufficient_quota_is_a_configuration_error() -> None:
    body = json.dumps(
        {"error": {"message": "quota", "type": "insufficient_quota", "code": "insufficient_quota"}}
    ).encode()
    async with answering(body, status=429) as server:
        async with OpenAIEmbedder("m", dimension=3, base_url=server.base_url, api_key="k") as embedder:
            with pytest.raises(EmbeddingError, match="add credit"):
                await embedder.embed(["a"], kind="document")
    assert len(server.requests) == 1


async def test_a_missing_server_is_an_error() -> None:
    policy = Policy(retry=False)
    async with OpenAIEmbedder(
        "m", dimension=3, base_url="http://127.0.0.1:9/v1", api_key="k", policy=policy
    ) as embedder:
        with pytest.raises(EmbeddingError, match="can't be reached"):
            await embedder.embed(["a"], kind="document")


async def test_questions_at_the_same_time_share_a_request_and_a_single_one_does_not_wait(
    embedder: OpenAIEmbedder, openai_server: OpenAIServer
) -> None:
    results: dict[int, Any] = {}

    async def one(number: int) -> None:
        results[number] = await embedder.embed([f"question {number % 10}"], kind="query")

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(one, number)
    assert len(openai_server.requests) == 1
    assert len(openai_server.requests[0][1]["input"]) == 10
    direct = await embedder.embed([f"question {number}" for number in range(10)], kind="document")
    for number in range(50):
        assert results[number][0] == pytest.approx(direct[number % 10], abs=1e-6)
    assert embedder.snapshot() == {"questions": 50, "requests": 1}


async def test_a_cancelled_question_does_not_affect_others(
    embedder: OpenAIEmbedder, openai_server: OpenAIServer
) -> None:
    openai_server.embedding_latency = 0.05
    got: list[object] = []

    async def other() -> None:
        got.append(await embedder.embed(["other"], kind="query"))

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        with anyio.move_on_after(0.01):
            await embedder.embed(["cancelled"], kind="query")
    assert len(got) == 1
    with anyio.move_on_after(0.01):
        await embedder.embed(["alone"], kind="query")
    with anyio.fail_after(2):
        while openai_server.active:
            await anyio.sleep(0.005)


async def test_many_texts_are_sent_in_batches_and_only_the_refused_one_fails(
    embedder: OpenAIEmbedder, openai_server: OpenAIServer
) -> None:
    assert (await embedder.embed([f"text {n}" for n in range(600)], kind="document")).shape == (600, 64)
    assert [len(request["input"]) for _, request in openai_server.requests] == [256, 256, 88]
    openai_server.faults.next(Fail(400), None, Fail(413))
    with pytest.raises(EmbeddingError):
        await embedder.embed(["a", "b"], kind="document")
    openai_server.faults.next(Fail(400))
    assert (await embedder.embed(["a", "b"], kind="document")).shape == (2, 64)
    assert (await embedder.embed([], kind="document")).shape == (0, 64)


async def test_missing_settings_are_reported_when_the_component_is_created() -> None:
    with pytest.raises(ConfigurationError, match="dimension"):
        OpenAIEmbedder("unknown", api_key="k")
    with pytest.raises(ConfigurationError, match="encoding_format, which ragcore sets itself"):
        OpenAIEmbedder("text-embedding-3-small", api_key="none", parameters={"encoding_format": "float"})
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        OpenAIEmbedder("text-embedding-3-small")
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        OpenAIGenerator("gpt-4o-mini")


async def test_a_client_of_the_users_is_used_and_never_closed(openai_server: OpenAIServer) -> None:
    import openai

    client = openai.AsyncOpenAI(
        base_url=openai_server.base_url, api_key="none", default_headers={"X-Team": "claims"}, max_retries=5
    )
    policy = Policy(retry=False)
    async with OpenAIEmbedder("fake", dimension=64, client=client, policy=policy) as embedder:
        await embedder.embed(["a"], kind="document")
        openai_server.faults.next(Fail(503), None)
        with pytest.raises(EmbeddingError):
            await embedder.embed(["a"], kind="document")
    assert openai_server.headers[0]["x-team"] == "claims"
    assert not client.is_closed()
    await client.close()


def events(*data: object, done: bool = True) -> bytes:
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in data)
    return (lines + ("data: [DONE]\n\n" if done else "")).encode()


def delta(text: str | None = None, finish: str | None = None) -> dict[str, Any]:
    return {"model": "m-1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


PROMPT = Prompt("How much is a visit?", passages=(Passage("c", "d", "A visit costs $40."),))


async def generated(body: bytes) -> tuple[list[str], Any]:
    policy = Policy(retry=False)
    async with (
        Scripted([Reply(body=body)]) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=policy) as generator,
    ):
        pieces: list[str] = []
        async with generator.stream(PROMPT) as stream:
            async for piece in stream:
                if not isinstance(piece, str):
                    return pieces, piece
                pieces.append(piece)
    raise AssertionError("no result")


async def test_a_stream_yields_pieces_usage_and_finish_reason() -> None:
    usage = {"model": "m-1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    pieces, whole = await generated(
        events(delta(""), delta("A visit "), delta("costs $40 [1]."), delta(finish="stop"), usage)
    )
    assert "".join(pieces) == whole.text == "A visit costs $40 [1]."
    assert (whole.finish_reason, whole.model, whole.usage.prompt_tokens, whole.usage.completion_tokens) == (
        "stop",
        "m-1",
        7,
        2,
    )


@pytest.mark.parametrize(
    "text",
    ["NOT_FOUND", "NOT_FOUND.", " 'NOT_FOUND'\n", "not_found", "\r\nNOT_FOUND", ".NOT_FOUND", "NOT_FOUND. \n\n\n\n"],
)
async def test_a_not_found_sentence_is_not_an_answer_and_is_never_shown(text: str) -> None:
    pieces, whole = await generated(events(*(delta(letter) for letter in text), delta(finish="stop")))
    assert (pieces, whole.text) == ([], "")


async def test_two_halves_of_an_emoji_are_joined_and_a_lone_half_is_replaced() -> None:
    pieces, whole = await generated(
        events(
            *(delta(text) for text in ("smile \ud83d", "\ude00 and \ud83d", " here", " \ude00 [1]\ud83d")),
            delta(finish="stop"),
        )
    )
    assert "".join(pieces) == whole.text == "smile \U0001f600 and \ufffd here \ufffd [1]\ufffd"


async def test_an_answer_that_begins_like_the_not_found_sentence_is_shown_completely() -> None:
    pieces, whole = await generated(
        events(delta("NOT_FOUND"), delta(" is what I would say, but it costs $40 [1]."), delta(finish="stop"))
    )
    assert "".join(pieces) == whole.text == "NOT_FOUND is what I would say, but it costs $40 [1]."
    pieces, whole = await generated(events(delta("No"), delta(finish="stop")))
    assert ("".join(pieces), whole.text) == ("No", "No")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (events(delta("half"), done=False), "without a finish reason"),
        (events(done=False), "before the answer began"),
        (events(delta("half"), {"error": {"message": "boom"}}), "error event"),
        (b"data: {oops\n\n", "not JSON"),
        (b"data: [1]\n\n", "not an object"),
        (events({"object": "x"}), "no choices"),
        (events({"choices": [{"delta": {"content": 7}}]}), "not text"),
        (b"<html>hello</html>", "not a stream"),
        (b"data: " + b"x" * 2_000_000, "larger than 1 MB"),
    ],
)  # fmt: skip
async def test_a_broken_stream_raises_an_error(body: bytes, said: str) -> None:
    with pytest.raises(GenerationError, match=said) as caught:
        await generated(body)
    assert caught.value.partial_text == (
        "half" if b'"half"' in body and b"boom" not in body else caught.value.partial_text
    )


async def test_pieces_before_the_break_are_kept() -> None:
    with pytest.raises(GenerationError) as caught:
        await generated(events(delta("A visit "), delta("costs"), done=False))
    assert caught.value.partial_text == "A visit costs"


async def test_a_failure_before_the_first_token_is_retried(openai_server: OpenAIServer) -> None:
    openai_server.faults.next(Fail(503), Fail(OSError()), None)
    async with OpenAIGenerator(
        "fake", base_url=openai_server.base_url, api_key="k", policy=Policy(retry=QUICK)
    ) as generator:
        assert (await generator.generate(PROMPT)).text == "A visit costs $40. [1]"


async def test_the_request_follows_the_protocol(openai_server: OpenAIServer) -> None:
    async with OpenAIGenerator("fake", base_url=openai_server.base_url, api_key="k") as generator:
        await generator.generate(Prompt("q", max_tokens=9))
    async with OpenAIGenerator("gpt-5-mini", base_url=openai_server.base_url, api_key="k") as generator:
        await generator.generate(Prompt("q", max_tokens=9))
    (_, plain), (_, reasoning) = openai_server.requests
    assert (plain["max_tokens"], plain["temperature"], plain["stream"], plain["stream_options"]) == (
        9,
        0.0,
        True,
        {"include_usage": True},
    )
    assert (reasoning["max_completion_tokens"], "temperature" in reasoning) == (9, False)

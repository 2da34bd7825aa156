"""The HTTP client: the targets of requests, the reading of errors, and the protection of secrets."""

from __future__ import annotations

import json
import time

import anyio
import httpx
import openai
import pytest

from ragcore import EmbeddingError, GenerationError, OpenAIEmbedder, OpenAIGenerator, Passage, Prompt
from ragcore.resilience import Policy
from ragcore.testing import Bomb, Crumbs, Endless, Huge, OpenAIServer, Redirect, Reply
from tests.pace import in_time
from tests.wire.serving import Scripted
from tests.wire.shapes import JSON
from tests.wire.shapes import Reply as Bytes

pytestmark = pytest.mark.anyio
ONCE = Policy(retry=False, breaker=False, first_timeout=5, idle_timeout=5)
PROMPT = Prompt("How much?", passages=(Passage("c", "d", "It is $40."),))
KEY = "my-very-own-key-1234"


def generator(server: OpenAIServer | Scripted, **options: object) -> OpenAIGenerator:
    return OpenAIGenerator("fake", base_url=server.base_url, api_key=KEY, policy=ONCE, **options)  # type: ignore[arg-type]


async def test_a_redirect_to_another_server_is_not_followed() -> None:
    async with OpenAIServer(text="It is $40 [1].") as other, OpenAIServer() as server, generator(server) as model:
        server.faults.always(Redirect(f"{other.base_url}/chat/completions"))
        with pytest.raises(GenerationError, match=r"redirect.*base_url.*127\.0\.0\.1") as caught:
            await model.generate(PROMPT)
        assert caught.value.status == 307
        assert caught.value.of_configuration
        assert not other.requests


async def test_a_redirect_within_the_server_is_followed_a_few_times() -> None:
    good = b'data: {"choices": [{"index": 0, "delta": {"content": "It is $40 [1]."}, "finish_reason": "stop"}]}\n\n'
    moved = Bytes(body=b"", status=308, headers={"location": "/v1/chat/completions/"})
    async with Scripted([moved, Bytes(body=good)]) as server, generator(server) as model:
        assert (await model.generate(PROMPT)).text == "It is $40 [1]."
    assert server.requests[0] == server.requests[1]
    assert "post /v1/chat/completions/ " in server.heads[1].lower()
    async with Scripted([moved]) as server, generator(server) as model:
        with pytest.raises(GenerationError, match="redirect"):
            await model.generate(PROMPT)
    assert len(server.requests) <= 5


@pytest.mark.parametrize("fault", [Endless(500), Endless(400), Bomb(500), Bomb(429), Bomb(), Crumbs(200_000), Huge()])
@pytest.mark.slow
async def test_no_body_is_read_without_a_limit(fault: object) -> None:
    async with OpenAIServer() as server, generator(server) as model:
        server.faults.always(fault)  # type: ignore[arg-type]
        began = time.monotonic()
        with pytest.raises(GenerationError):
            await model.generate(PROMPT)
        embedder = OpenAIEmbedder("fake", dimension=8, base_url=server.base_url, api_key=KEY, policy=ONCE)
        async with embedder:
            if not isinstance(fault, Crumbs):
                with pytest.raises(EmbeddingError):
                    await embedder.embed(["a"], kind="document")
        assert in_time(time.monotonic() - began, 60)


@pytest.mark.parametrize("end", ["reset", "close", "short"])
async def test_an_error_whose_body_breaks_off_still_shows_its_message(end: str) -> None:
    body = b'{"error": {"message": "the voice is unknown"}}'
    async with Scripted([Bytes(body=body, status=400, headers=JSON)], end=end) as server, generator(server) as model:
        with pytest.raises(GenerationError, match="the voice is unknown"):
            await model.generate(PROMPT)


@pytest.mark.parametrize("location", ["http://127.0.0.1:99999999/x", "http://[::1/x", "//", "::", ""])
async def test_a_broken_redirect_is_refused_and_leaks_nothing(location: str) -> None:
    moved = Bytes(body=b"", status=307, headers={"location": location})
    async with Scripted([moved]) as server, generator(server) as model:
        for _ in range(5):
            with pytest.raises(GenerationError, match="redirect") as caught:
                await model.generate(PROMPT)
            assert caught.value.status == 307


SSE = {"content-type": "text/event-stream"}


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [{"index": 0, "error": {"message": f"bad key {KEY}"}}]},
        {"message": f"bad key {KEY}"},
        {"error": {"message": f"bad key {KEY}"}},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"name": KEY}}]}, "finish_reason": "stop"}]},
        {"choices": None, "base_resp": {"status_code": 1004, "status_msg": f"login fail {KEY}"}},
    ],
)
async def test_the_key_is_also_hidden_in_errors_inside_answers(event: object) -> None:
    body = f"data: {json.dumps(event)}\n\n".encode()
    async with Scripted([Bytes(body=body, headers=SSE)]) as server, generator(server) as model:
        with pytest.raises(GenerationError) as caught:
            await model.generate(PROMPT)
    assert KEY not in str(caught.value)
    assert "hidden" in str(caught.value)


async def test_the_models_own_words_of_refusal_are_not_shown() -> None:
    event = {"choices": [{"index": 0, "delta": {"refusal": "I won't speak of porphyria."}, "finish_reason": "stop"}]}
    body = f"data: {json.dumps(event)}\n\n".encode()
    async with Scripted([Bytes(body=body, headers=SSE)]) as server, generator(server) as model:
        with pytest.raises(GenerationError, match="refused to answer") as caught:
            await model.generate(PROMPT)
    assert "porphyria" not in str(caught.value)


async def test_the_servers_message_is_shown_without_the_key() -> None:
    body = f'{{"error": {{"message": "key {KEY} and header-value-5678 are refused: sk-abc123def456 has no rights", "code": "x"}}}}'
    for status in (400, 401, 429, 500):
        async with (
            Scripted([Bytes(body=body.encode(), status=status, headers=JSON)]) as server,
            generator(server, extra_headers={"X-Gateway-Key": "header-value-5678"}) as model,
        ):
            with pytest.raises(GenerationError) as caught:
                await model.generate(PROMPT)
        said = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
        assert "has no rights" in said
        for secret in (KEY, "header-value-5678", "sk-abc123def456"):
            assert secret not in said


async def test_azures_address_names_the_deployment() -> None:
    async with OpenAIServer() as server:
        azure = openai.AsyncAzureOpenAI(
            azure_endpoint=server.base_url.removesuffix("/v1"), api_key=KEY, api_version="2024-10-21"
        )
        async with OpenAIGenerator("my deployment", client=azure, policy=ONCE) as model:
            with pytest.raises(GenerationError, match="/openai/deployments/my%20deployment/chat/completions"):
                await model.generate(PROMPT)
        assert server.headers[-1]["api-key"] == KEY
        await azure.close()


async def test_a_client_with_the_original_httpx_works() -> None:
    async with OpenAIServer(text="It is $40 [1].") as server, httpx.AsyncClient() as http:
        client = openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY, http_client=http)  # type: ignore[arg-type]
        async with OpenAIGenerator("fake", client=client, policy=ONCE) as model:
            assert (await model.generate(PROMPT)).text == "It is $40 [1]."
        assert not client.is_closed()


async def test_a_key_function_is_called_for_each_request() -> None:
    keys = iter(("first-key-000", "second-key-000"))

    async def fetch() -> str:
        return next(keys)

    async with OpenAIServer(text="It is $40 [1].") as server:
        client = openai.AsyncOpenAI(base_url=server.base_url, api_key=fetch)
        async with OpenAIGenerator("fake", client=client, policy=ONCE) as model:
            for _ in range(2):
                await model.generate(PROMPT)
        assert [headers["authorization"] for headers in server.headers] == [
            "Bearer first-key-000",
            "Bearer second-key-000",
        ]
        await client.close()


async def test_a_429_in_the_stream_pauses_and_is_retried() -> None:
    late = Reply(
        200, b'data: {"error": {"message": "slow down", "code": 429}}\n\n', {"content-type": "text/event-stream"}
    )
    async with OpenAIServer(text="It is $40 [1].") as server:
        server.faults.next(late, None)
        async with OpenAIGenerator("fake", base_url=server.base_url, api_key=KEY) as model:
            with anyio.fail_after(10):
                assert (await model.generate(PROMPT)).text == "It is $40 [1]."


async def test_requests_do_not_describe_this_machine() -> None:
    async with OpenAIServer(text="It is $40 [1].") as server, generator(server) as model:
        await model.generate(PROMPT)
    sent = server.headers[0]
    assert sent["accept-encoding"] == "identity"
    assert sent["x-stainless-os"] == "Unknown"

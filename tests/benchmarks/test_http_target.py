from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchmarks.targets.choice import TargetOptions
from benchmarks.targets.http import HttpOptions, HttpTarget
from benchmarks.targets.target import TargetError

pytestmark = pytest.mark.anyio
URL = "https://example.test/chat"
SECRET = "s3cret-token"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def target(handler: Callable[[httpx.Request], httpx.Response], **options: Any) -> HttpTarget:
    client = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    return HttpTarget(client, HttpOptions(url=URL, **options))


async def asked(one: HttpTarget, question: str = "What is my deductible?") -> tuple[str, bool, int]:
    tokens = 0

    def token() -> None:
        nonlocal tokens
        tokens += 1

    reply = await one.ask(question, timeout=5, token=token)
    return reply.text, reply.degraded, tokens


def stream(*lines: str) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, text="\n".join(lines) + "\n\n")


async def test_the_question_goes_where_the_body_says_whatever_is_in_it() -> None:
    seen: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return httpx.Response(200, json={"answer": "yes"})

    body = '{"messages": [{"role": "user", "content": "Please: {question}"}], "n": 1}'
    assert await asked(target(handler, body=body), 'a "quoted"\nquestion \\') == ("yes", False, 0)
    assert seen == [{"messages": [{"role": "user", "content": 'Please: a "quoted"\nquestion \\'}], "n": 1}]


@pytest.mark.parametrize(
    ("answer", "options", "text", "degraded"),
    [
        ({"answer": "yes"}, {}, "yes", False),
        ({"text": "yes", "degraded": ["generation"]}, {}, "yes", True),
        ({"choices": [{"message": {"content": "yes"}}]}, {}, "yes", False),
        ({"data": {"reply": ["no", "yes"]}}, {"answer_path": "data.reply.1"}, "yes", False),
        ("yes", {}, "yes", False),
    ],
)
async def test_the_text_is_found_in_a_json_answer(answer: Any, options: Any, text: str, degraded: bool) -> None:
    assert await asked(target(lambda _: httpx.Response(200, json=answer), **options)) == (text, degraded, 0)


async def test_an_answer_of_another_shape_is_no_answer() -> None:
    with pytest.raises(TargetError, match="no text at"):
        await asked(target(lambda _: httpx.Response(200, json={"unexpected": 1})))


@pytest.mark.parametrize(
    ("status", "kind"), [(500, "http"), (404, "http"), (429, "refused"), (503, "refused"), (504, "timeout")]
)
async def test_a_status_has_its_kind(status: int, kind: str) -> None:
    with pytest.raises(TargetError) as caught:
        await asked(target(lambda _: httpx.Response(status)))
    assert (caught.value.kind, caught.value.status) == (kind, status)


async def test_a_connection_that_fails_has_its_kind() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(TargetError) as caught:
        await asked(target(handler))
    assert caught.value.kind == "connection"


async def test_a_stream_of_ragcores_own_application() -> None:
    answer = {"answer": {"text": "It is $500.", "degraded": ["generation"]}}
    lines = (
        ": ping",
        "event: delta",
        'data: {"text": "It is "}',
        "",
        "event: delta",
        'data: {"text": "$500."}',
        "",
        "event: done",
        f"data: {json.dumps(answer)}",
        "",
    )
    assert await asked(target(lambda _: stream(*lines))) == ("It is $500.", True, 2)


async def test_a_stream_as_openai_sends_it() -> None:
    lines = [f'data: {{"choices": [{{"delta": {{"content": "{piece}"}}}}]}}\n' for piece in ("It ", "is.")]
    assert await asked(target(lambda _: stream(*lines, "data: [DONE]"))) == ("It is.", False, 2)


async def test_a_stream_that_ends_with_an_error_is_no_answer() -> None:
    with pytest.raises(TargetError, match="ended with an error"):
        await asked(target(lambda _: stream("event: error", 'data: {"error": "GenerationError"}')))


async def test_a_login_gives_the_token_that_every_question_carries() -> None:
    seen: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/login":
            assert json.loads(request.content) == {"user": "a"}
            return httpx.Response(200, json={"data": {"token": SECRET}})
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, json={"answer": "yes"})

    one = target(handler, login_url="https://example.test/login", login_body='{"user": "a"}', token_path="data.token")
    await one.login()
    await asked(one)
    assert seen == [f"Bearer {SECRET}"]


async def test_a_login_that_fails_says_so_without_what_was_sent() -> None:
    one = target(
        lambda _: httpx.Response(401), login_url="https://example.test/login", login_body=f'{{"p": "{SECRET}"}}'
    )
    with pytest.raises(TargetError, match="the login answered 401") as caught:
        await one.login()
    assert SECRET not in str(caught.value)


async def test_secrets_come_from_files_and_the_environment_and_are_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    (tmp_path / "login").write_text(f'{{"password": "{SECRET}"}}')
    monkeypatch.setenv("KEY", SECRET)
    options = TargetOptions(
        url=f"https://user:{SECRET}@example.test/chat?key={SECRET}",
        token_file=tmp_path / "token",
        login_url="https://example.test/login",
        login_body=f"@{tmp_path / 'login'}",
        header_env=["X-Key=KEY"],
        question=["Hello?"],
    )
    how = options.http()
    assert how.token == SECRET
    assert how.headers == {"X-Key": SECRET}
    assert SECRET in how.login_body
    one = HttpTarget(httpx.AsyncClient(), how)
    assert one.name == "https://example.test/chat"
    assert SECRET not in repr(how).replace(how.url, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"login_body": '{"password": "x"}'}, "every process of this machine can read a command line"),
        ({"url": URL}, "say what to ask"),
        ({"url": URL, "reference": True}, "choose one of"),
        ({"fact": ["x"]}, "more --fact than --question"),
    ],
)
async def test_options_that_can_not_be_are_refused_in_words(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TargetOptions(**options)


async def test_a_body_without_a_place_for_the_question_is_refused() -> None:
    with pytest.raises(ValueError, match="where should the question go"):
        HttpOptions(url=URL, body='{"message": "hello"}')
    with pytest.raises(ValueError, match="is not JSON"):
        HttpOptions(url=URL, body="{question}")

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ragcore.loadtest.http import HttpOptions, HttpTarget
from ragcore.loadtest.options import ServiceOptions
from ragcore.loadtest.target import TargetError, read_questions

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


def test_secrets_come_from_files_and_the_environment_and_are_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    (tmp_path / "login").write_text(f'{{"password": "{SECRET}"}}')
    monkeypatch.setenv("KEY", SECRET)
    options = ServiceOptions(
        url=f"https://user:{SECRET}@example.test/chat?key={SECRET}",
        token_file=tmp_path / "token",
        login_url="https://example.test/login",
        login_body=f"@{tmp_path / 'login'}",
        header_env=["X-Key=KEY"],
        question=["Hello?"],
    )
    how = options.http(options.url)
    assert how.token == SECRET
    assert how.headers == {"X-Key": SECRET}
    assert SECRET in how.login_body
    one = HttpTarget(httpx.AsyncClient(), how)
    assert one.name == "https://example.test/chat"
    assert SECRET not in repr(how).replace(how.url, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"question": ["q"], "login_body": '{"password": "x"}'},
            "every process of this machine can read a command line",
        ),
        ({}, "say what to ask"),
        ({"fact": ["x"]}, "more --fact than --question"),
    ],
)
def test_options_that_can_not_be_are_refused_in_words(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServiceOptions(url=URL, **options)


def test_a_body_without_a_place_for_the_question_is_refused() -> None:
    with pytest.raises(ValueError, match="where should the question go"):
        HttpOptions(url=URL, body='{"message": "hello"}')
    with pytest.raises(ValueError, match="is not JSON"):
        HttpOptions(url=URL, body="{question}")


DELTA = 'event: delta\ndata: {"text": "It is $500."}\n'
END = "event: done\ndata: {}"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((DELTA,), "broke off"),
        ((DELTA, 'data: {"error": {"message": "no"}}'), "ended with an error"),
        (('event: sources\ndata: {"text": "$500"}\n', END), "without a word"),
        (('event: ping\ndata: {"text": "."}\n', END), "without a word"),
    ],
)
async def test_what_is_not_the_whole_answer_is_none(lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        await asked(target(lambda _: stream(*lines)))


async def test_a_stream_without_an_end_may_be_taken_for_whole() -> None:
    assert await asked(target(lambda _: stream(DELTA), end_marker=False)) == ("It is $500.", False, 1)


async def test_a_finish_reason_is_an_end_and_a_number_a_piece() -> None:
    last = 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}'
    first = 'data: {"choices": [{"delta": {"content": "It is"}}]}\n'
    assert await asked(target(lambda _: stream(first, last))) == ("It is", False, 1)
    assert await asked(target(lambda _: stream("data: 1500\n", "data: [DONE]"))) == ("1500", False, 1)


async def test_lines_end_where_the_standard_ends_them() -> None:
    text = "a\u2028b"
    assert await asked(target(lambda _: stream(f"event: delta\r\ndata: {text}\r\n\r\n" + END))) == (text, False, 1)


@pytest.mark.parametrize(
    ("answer", "options", "degraded"),
    [
        ({"data": {"answer": "yes", "degraded": True}}, {"answer_path": "data.answer"}, True),
        ({"answer": "yes", "degraded": "false"}, {}, False),
        ({"answer": "yes", "degraded": []}, {}, False),
        ({"answer": "yes", "meta": {"worse": True}}, {"degraded_path": "meta.worse"}, True),
    ],
)
async def test_degraded_is_seen_where_it_is_said(answer: Any, options: Any, degraded: bool) -> None:
    assert (await asked(target(lambda _: httpx.Response(200, json=answer), **options)))[1] is degraded


async def test_degraded_is_seen_in_any_event() -> None:
    lines = ('data: {"text": "It is $500.", "degraded": true}\n', "data: [DONE]")
    assert (await asked(target(lambda _: stream(*lines))))[1] is True


@pytest.mark.parametrize("kind", ["text/html", "application/json"])
async def test_a_page_or_a_whole_answer_is_no_stream(kind: str) -> None:
    headers = {"content-type": kind}
    one = target(lambda _: httpx.Response(200, headers=headers, text='{"answer": "yes"}'), accept="text/event-stream")
    with pytest.raises(TargetError, match="answered"):
        await asked(one)


async def test_an_answer_that_repeats_a_secret_does_not_bring_it_into_the_report() -> None:
    one = target(
        lambda request: httpx.Response(200, json={"answer": f"you sent {request.headers['x-key']}"}),
        headers={"x-key": SECRET},
    )
    one._client.headers["x-key"] = SECRET
    assert (await asked(one))[0] == "you sent [secret]"


def test_a_token_with_a_line_break_is_stripped_and_one_with_a_control_character_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEY", f"{SECRET}\n")
    assert HttpOptions.secret(file=None, variable="KEY") == SECRET
    with pytest.raises(ValueError, match="control character") as caught:
        HttpOptions(url=URL, token=f"{SECRET}\x00")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["localhost/chat", "alice:pw@localhost/chat", "http://localhost:port/chat", "ftp://x/y"]
)
def test_what_is_no_address_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(ValueError, match="is no address") as caught:
        HttpOptions(url=url)
    assert "pw" not in str(caught.value)


async def test_answers_do_not_set_cookies_for_the_next_user() -> None:
    seen: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("cookie"))
        return httpx.Response(200, json={"answer": "yes"}, headers={"set-cookie": "session=1"})

    one = target(handler)
    await one.login()
    await asked(one)
    await asked(one)
    assert seen == [None, None]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "q", "facts": "x"}', "facts"),
        ('{"question": "q", "fact": ""}', "none of them empty"),
        ('{"question": "q", "fact": null}', "a fact is a text"),
        ('{"question": ""}', "not like"),
        ("[]", "not like"),
        ("", "holds no question"),
    ],
)
def test_questions_that_would_pass_anything_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_questions(path)


def test_questions_are_read_as_other_programs_write_them(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = '\ufeff{"question": "a\u2028b", "fact": 1500}\n{"question": "c", "fact": ["d", "e"], "id": "7"}\n'
    path.write_text(rows, encoding="utf-8")
    assert [(one.text, one.facts) for one in read_questions(path)] == [("a\u2028b", ("1500",)), ("c", ("d", "e"))]

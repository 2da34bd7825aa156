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


async def test_a_question_with_any_characters_is_put_into_its_place_in_the_body() -> None:
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


async def test_an_answer_without_a_text_is_an_error() -> None:
    with pytest.raises(TargetError, match="no text at"):
        await asked(target(lambda _: httpx.Response(200, json={"unexpected": 1})))


@pytest.mark.parametrize(
    ("status", "kind"), [(500, "http"), (404, "http"), (429, "refused"), (503, "refused"), (504, "timeout")]
)
async def test_each_status_maps_to_a_kind_of_error(status: int, kind: str) -> None:
    with pytest.raises(TargetError) as caught:
        await asked(target(lambda _: httpx.Response(status)))
    assert (caught.value.kind, caught.value.status) == (kind, status)


async def test_a_failed_connection_is_a_connection_error() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(TargetError) as caught:
        await asked(target(handler))
    assert caught.value.kind == "connection"


async def test_a_stream_of_ragcores_application_is_read() -> None:
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


async def test_a_stream_in_openais_format_is_read() -> None:
    lines = [f'data: {{"choices": [{{"delta": {{"content": "{piece}"}}}}]}}\n' for piece in ("It ", "is.")]
    assert await asked(target(lambda _: stream(*lines, "data: [DONE]"))) == ("It is.", False, 2)


async def test_a_stream_that_ends_with_an_error_is_an_error() -> None:
    with pytest.raises(TargetError, match="ended with an error"):
        await asked(target(lambda _: stream("event: error", 'data: {"error": "GenerationError"}')))


async def test_every_question_carries_the_token_of_the_login() -> None:
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


async def test_the_error_of_a_failed_login_does_not_contain_its_body() -> None:
    one = target(
        lambda _: httpx.Response(401), login_url="https://example.test/login", login_body=f'{{"p": "{SECRET}"}}'
    )
    with pytest.raises(TargetError, match="login failed: status 401") as caught:
        await one.login()
    assert SECRET not in str(caught.value)


def test_secrets_are_read_from_files_and_the_environment_and_never_shown(
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
            "every process of this machine can read the command line",
        ),
        ({}, "no questions: pass --question"),
        ({"fact": ["x"]}, "more --fact than --question"),
    ],
)
def test_invalid_options_are_refused_with_a_reason(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServiceOptions(url=URL, **options)


def test_a_body_without_a_place_for_the_question_is_refused() -> None:
    with pytest.raises(ValueError, match="put it where the question goes"):
        HttpOptions(url=URL, body='{"message": "hello"}')
    with pytest.raises(ValueError, match="is not JSON"):
        HttpOptions(url=URL, body="{question}")


DELTA = 'event: delta\ndata: {"text": "It is $500."}\n'
END = "event: done\ndata: {}"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((DELTA,), "if this is normal for the service, pass --no-end-marker"),
        ((DELTA, 'data: {"error": {"message": "no"}}'), "ended with an error"),
        (('event: sources\ndata: {"text": "$500"}\n', END), "without text"),
        (('event: ping\ndata: {"text": "."}\n', END), "without text"),
    ],
)
async def test_an_incomplete_stream_is_an_error(lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        await asked(target(lambda _: stream(*lines)))


async def test_a_stream_without_an_end_marker_is_accepted_on_request() -> None:
    assert await asked(target(lambda _: stream(DELTA), end_marker=False)) == ("It is $500.", False, 1)


async def test_a_finish_reason_ends_a_stream_and_a_number_counts_as_text() -> None:
    last = 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}'
    first = 'data: {"choices": [{"delta": {"content": "It is"}}]}\n'
    assert await asked(target(lambda _: stream(first, last))) == ("It is", False, 1)
    assert await asked(target(lambda _: stream("data: 1500\n", "data: [DONE]"))) == ("1500", False, 1)


async def test_lines_end_only_at_line_feeds_and_carriage_returns() -> None:
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
async def test_degraded_is_found_at_its_usual_places_and_at_degraded_path(
    answer: Any, options: Any, degraded: bool
) -> None:
    assert (await asked(target(lambda _: httpx.Response(200, json=answer), **options)))[1] is degraded


async def test_degraded_is_found_in_any_event() -> None:
    lines = ('data: {"text": "It is $500.", "degraded": true}\n', "data: [DONE]")
    assert (await asked(target(lambda _: stream(*lines))))[1] is True


@pytest.mark.parametrize("kind", ["text/html", "application/json"])
async def test_a_page_or_a_json_answer_instead_of_a_stream_is_an_error(kind: str) -> None:
    headers = {"content-type": kind}
    one = target(lambda _: httpx.Response(200, headers=headers, text='{"answer": "yes"}'), accept="text/event-stream")
    with pytest.raises(TargetError, match="wrong content type"):
        await asked(one)


async def test_a_short_value_of_a_header_is_no_secret_and_changes_no_answer() -> None:
    """The name of a tenant such as "40" would be removed from "$400", and the right answer would count as wrong."""
    one = target(lambda _: httpx.Response(200, json={"answer": "The copay is $400."}), headers={"x-tenant": "40"})
    assert (await asked(one))[0] == "The copay is $400."


async def test_the_token_of_a_header_is_removed_without_its_scheme() -> None:
    headers = {"Authorization": f"Bearer {SECRET}"}
    one = target(lambda _: httpx.Response(200, json={"answer": f"you sent {SECRET}"}), headers=headers)
    assert (await asked(one))[0] == "you sent [secret]"


async def test_a_secret_in_an_answer_is_removed() -> None:
    one = target(
        lambda request: httpx.Response(200, json={"answer": f"you sent {request.headers['x-key']}"}),
        headers={"x-key": SECRET},
    )
    one._client.headers["x-key"] = SECRET
    assert (await asked(one))[0] == "you sent [secret]"


def test_the_line_break_after_a_token_is_stripped_and_a_control_character_is_refused(
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
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a valid URL") as caught:
        HttpOptions(url=url)
    assert "pw" not in str(caught.value)


async def test_cookies_of_an_answer_are_not_sent_with_the_next_question() -> None:
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
        ('{"question": "q", "fact": ""}', "none may be empty"),
        ('{"question": "q", "fact": null}', "a fact must be a text"),
        ('{"question": ""}', 'write {"question"'),
        ("[]", 'write {"question"'),
        ("", "contains no question"),
    ],
)
def test_invalid_lines_of_questions_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_questions(path)


def test_questions_with_a_byte_order_mark_and_numbers_as_facts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = '\ufeff{"question": "a\u2028b", "fact": 1500}\n{"question": "c", "fact": ["d", "e"], "id": "7"}\n'
    path.write_text(rows, encoding="utf-8")
    assert [(one.text, one.facts) for one in read_questions(path)] == [("a\u2028b", ("1500",)), ("c", ("d", "e"))]

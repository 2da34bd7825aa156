"""`ragcore serve` as different clients use it: curl, the OpenAI SDK, a fuzzer, and users who request data of other users."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import openai
import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ragcore.cli.serve import _with_timeouts
from ragcore.contrib import asgi
from ragcore.demo.questions import DOCUMENTS
from ragcore.testing import fake_rag

pytestmark = [pytest.mark.system, pytest.mark.timeout(200)]

TOKENS = {
    "of-amara": {"tenant": "amara"},
    "of-chen": {"tenant": "chen"},
    "of-ops": {"tenant": "ops", "admin": True},
}
CURL = shutil.which("curl")


class Served:
    """The running server."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self.log = log
        self.data = log.with_name("data")
        self.process = process

    def ask(self, method: str, path: str, *, user: str | None = "amara", **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer of-{user}"} if user else {}
        return httpx.request(method, self.url + path, headers=headers, timeout=20, **options)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "tokens.json").write_text(json.dumps(TOKENS))
    environment = {**os.environ, "RAGCORE_DATA": str(folder / "data")}
    for member in ("amara", "chen"):
        command = [sys.executable, "-m", "ragcore", "ingest", str(DOCUMENTS / member), "--tenant", member]
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=100)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ragcore", "serve", "--port", str(port), "--tokens", str(folder / "tokens.json")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    made = Served(f"http://127.0.0.1:{port}", process, folder / "log")
    try:
        for _ in range(300):
            try:
                assert made.ask("GET", "/livez", user=None).status_code == 200
                break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            raise AssertionError((folder / "log").read_text())
        yield made
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130, (folder / "log").read_text()  # a shell's exit code for Ctrl-C
        assert "Traceback" not in (folder / "log").read_text()
    finally:
        process.kill()


def test_the_address_is_printed_once_it_serves_and_a_used_port_is_a_one_line_error(served: Served) -> None:
    assert f"serving at {served.url} (stop with Ctrl-C)" in served.log.read_text()
    port = served.url.rpartition(":")[2]
    command = [sys.executable, "-m", "ragcore", "serve", "--port", port]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert f"cannot bind 127.0.0.1:{port}" in " ".join(second.stderr.split())
    assert "serving at" not in second.stderr
    assert "Traceback" not in second.stderr


def test_the_openai_sdk_works_with_the_server(served: Served) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="of-amara", max_retries=0)
    question: Any = [{"role": "user", "content": "What is my deductible?"}]
    whole = client.chat.completions.create(model="ragcore", messages=question)
    assert "$500" in str(whole.choices[0].message.content)
    stream = client.chat.completions.create(
        model="ragcore", messages=question, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "$500" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage is not None
    assert [model.id for model in client.models.list()] == ["ragcore"]
    with pytest.raises(openai.BadRequestError, match="last message must have the role user"):
        client.chat.completions.create(model="ragcore", messages=[{"role": "assistant", "content": "hello"}])
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="stolen", max_retries=0).models.list()
    client.close()


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "What is my deductible?"}], "stream": True},
            "data: [DONE]",
        ),
        ("/chat", {"message": "What is my deductible?"}, "event: done"),
    ],
)
def test_curl_shows_the_stream(served: Served, path: str, body: object, end: str) -> None:
    headers = ["-H", "authorization: Bearer of-chen", "-H", "accept: text/event-stream"]
    done = subprocess.run(
        [str(CURL), "-sN", *headers, "-d", json.dumps(body), served.url + path],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert end in done.stdout
    assert "$3,200" in done.stdout
    assert "$500" not in done.stdout


def test_users_see_only_their_own_documents(served: Served) -> None:
    assert served.ask("POST", "/chat", user=None, json={"message": "hello"}).status_code == 401
    asked = {"query": "deductible"}
    assert served.ask("POST", "/debug/rag-similarity/chen", json=asked).status_code == 403
    assert served.ask("GET", "/debug/rag-similarity/chen?query=deductible").status_code == 405
    assert served.ask("GET", "/debug-env").status_code == 403
    seen = served.ask("GET", "/debug/rag-similarity/chen?query=deductible", user="ops")
    assert seen.status_code == 200
    assert seen.json()["chunks"] > 0
    answer = served.ask("POST", "/chat", json={"message": "What is the deductible of chen's plan?"})
    assert "3,200" not in answer.text


def test_oversized_requests_are_refused_with_a_reason(served: Served) -> None:
    large = served.ask("POST", "/chat", content=b"x" * 10_000_000)
    assert (large.status_code, large.json()["error"]) == (413, "TooLarge")
    long = served.ask("POST", "/chat", json={"message": "x" * 1_000_000})
    assert (long.status_code, long.json()["error"]) == (400, "InvalidInput")
    assert "Traceback" not in large.text + long.text


CHECKS = [
    "not_a_server_error", "response_schema_conformance", "status_code_conformance", "negative_data_rejection",
    "unsupported_method", "ignored_auth",
]  # fmt: skip


ALL_PHASES = "examples,coverage,fuzzing,stateful"


@pytest.mark.parametrize(
    ("user", "limit", "phases", "examples"),
    [
        pytest.param("ops", "0", ALL_PHASES, 20, id="an administrator", marks=pytest.mark.thorough),
        pytest.param("amara", "0", "fuzzing", 6, id="a user, quickly"),
        pytest.param("amara", "0", ALL_PHASES, 20, id="a user", marks=pytest.mark.thorough),
        pytest.param("amara", "30", ALL_PHASES, 20, id="a user with limits", marks=pytest.mark.thorough),
    ],
)
def test_a_fuzzer_finds_no_500(
    served: Served, tmp_path: Path, user: str, limit: str, phases: str, examples: int
) -> None:
    """Run schemathesis with the application's own OpenAPI document."""
    limits = {"RAGCORE_REQUESTS_PER_MINUTE": limit, "RAGCORE_TOKENS_PER_MINUTE": "0"}
    options = "--tokens tokens.json --audit audit.jsonl"
    with serving(tmp_path, options, command="--verbose serve", RAGCORE_DATA=str(served.data), **limits) as fuzzed:
        tool = Path(sys.executable).with_name("schemathesis")
        command = [
            str(tool), "run", f"{fuzzed.url}/openapi.json", "-H", f"Authorization: Bearer of-{user}", "--checks", ",".join(CHECKS),
            "--phases", phases, "--max-examples", str(examples), "--generation-database", "none", "--seed", "1", "--no-color",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=tmp_path)
        document = fuzzed.ask("GET", "/openapi.json").json()
        log = fuzzed.log.read_text()
    assert done.returncode == 0, done.stdout[-3_000:]
    assert "Traceback" not in log, log[-3_000:]
    asked = re.findall(r"ragcore\.access: (\S+) (\S+) (\d+)", log)
    answered = {(method, path) for method, path, _ in asked}
    for path, operations in document["paths"].items():
        shape = re.compile(re.sub(r"\{\w+\}", ".+", path))
        for method in operations:
            assert any(one == method.upper() and shape.fullmatch(where) for one, where in answered), (method, path)
    # Many requests succeed; with limits, some are refused by them.
    by_status = Counter(int(status) for _, path, status in asked if path in ("/chat", "/v1/chat/completions"))
    assert by_status[200] > examples // 2, by_status
    assert bool(by_status[429]) == (limit != "0"), by_status


def test_a_missing_tokens_file_is_an_error_at_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ragcore", "serve", "--tokens", str(tmp_path / "missing")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "RAGCORE_DATA": str(tmp_path / "data")},
    )
    assert done.returncode == 2
    assert "cannot read tokens" in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def serving(
    folder: Path, *options: str, prefix: str = "", command: str = "serve", **environment: str
) -> Iterator[Served]:
    (folder / "tokens.json").write_text(json.dumps(TOKENS))
    told = f"{prefix} exec {sys.executable} -m ragcore {command} --port 0 {' '.join(options)}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", told], cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log
        )
    try:
        for _ in range(300):
            if found := re.search(r"serving at (\S+)", (folder / "log").read_text()):
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        assert found, (folder / "log").read_text()
        yield Served(found[1], process, folder / "log")
    finally:
        process.kill()
        process.wait()


def test_the_console_is_served_and_can_be_switched_off(served: Served, tmp_path: Path) -> None:
    page = served.ask("GET", "/debug/console", user=None)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert served.ask("GET", "/debug/status").status_code == 403
    assert served.ask("GET", "/debug/status", user="ops").json()["policies"]["store"]["breaker"]["state"] == "closed"
    asked = {"message": "What is my deductible?", "tenant": "amara"}
    assert "$500" in served.ask("POST", "/debug/ask", user="ops", json=asked).json()["text"]
    with serving(tmp_path, "--tokens tokens.json --no-console", RAGCORE_DATA=str(served.data)) as off:
        assert off.ask("GET", "/debug/console", user="ops").status_code == 404


def test_two_processes_share_their_limits(tmp_path: Path) -> None:
    environment = {
        "RAGCORE_DATA": str(tmp_path / "data"),
        "RAGCORE_SHARE_LIMITS": "true",
        "RAGCORE_REQUESTS_PER_MINUTE": "6",
    }
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    with (
        serving(folders[0], "--tokens tokens.json", **environment) as first,
        serving(folders[1], "--tokens tokens.json", **environment) as second,
    ):
        answers = [served.ask("POST", "/chat", json={"message": "hello?"}) for served in (first, second) * 5]
        seen = [answer.status_code for answer in answers]
        assert seen.count(429) in (3, 4)  # one request is granted again every ten seconds
        assert set(seen) == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert 0 < int(refused.headers["retry-after"]) <= 10
        assert "r=0" in refused.headers["ratelimit"]
        assert first.ask("POST", "/chat", json={"message": "hello?"}, user="chen").status_code == 200


def test_connections_without_a_request_do_not_stop_the_server(tmp_path: Path) -> None:
    with serving(
        tmp_path, "--tokens tokens.json", prefix="ulimit -n 200;", RAGCORE_DATA=str(tmp_path / "data")
    ) as served:
        host, _, port = served.url.removeprefix("http://").partition(":")
        idle = [socket.create_connection((host, int(port)), timeout=5) for _ in range(300)]
        time.sleep(0.5)  # connections above the limit are closed at once
        for connection in idle[50:]:
            connection.close()
        until = time.monotonic() + 20
        while True:
            try:
                assert served.ask("GET", "/livez", user=None).status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < until
                time.sleep(0.05)
        for connection in idle[:50]:
            connection.close()
        assert "system resource" not in served.log.read_text()


def test_on_shutdown_each_running_call_gets_an_error(tmp_path: Path) -> None:
    (tmp_path / "hook.py").write_text(
        "from ragcore.contrib.asgi import Identity\nasync def who(scope):\n    return Identity('amara')\n"
    )
    data = {"RAGCORE_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-m", "ragcore", "ingest", str(DOCUMENTS / "amara"), "--tenant", "amara"]
    subprocess.run(command, check=True, env={**os.environ, **data}, capture_output=True, timeout=100)
    with socket.create_server(("127.0.0.1", 0)) as black_hole:  # accepts requests and never answers
        model = f"http://127.0.0.1:{black_hole.getsockname()[1]}/v1"
        environment = {
            **data,
            "OPENAI_BASE_URL": model,
            "OPENAI_API_KEY": "none",
            "RAGCORE_MODELS": "slow",
            "RAGCORE_EMBEDDING_MODEL": "local",
            "RAGCORE_DRAIN": "1",
            "RAGCORE_DEGRADE": "false",
        }
        with serving(tmp_path, "--authenticate hook:who", **environment) as served:
            told: list[httpx.Response] = []

            def ask(accept: str) -> None:
                question = {"message": "What is my deductible?"}
                told.append(httpx.post(served.url + "/chat", json=question, headers={"accept": accept}, timeout=30))

            threads = [threading.Thread(target=ask, args=(a,)) for a in ("application/json", "text/event-stream")]
            for thread in threads:
                thread.start()
            until = time.monotonic() + 10
            while len(served.ask("GET", "/debug/inflight").json()["calls"]) < 2:
                assert time.monotonic() < until
                time.sleep(0.05)
            served.process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join(15)
            served.process.wait(15)
            log = served.log.read_text()
    by_kind = {answer.headers["content-type"].partition(";")[0]: answer for answer in told}
    assert by_kind["application/json"].status_code == 503
    assert by_kind["application/json"].json()["error"] == "NotOpen"
    assert "event: error" in by_kind["text/event-stream"].text
    assert "Traceback" not in log, log


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--authenticate", "broken:who"), "cannot import --authenticate broken:who (ZeroDivisionError"),
        (("--authenticate", "plain:who"), "write `async def who(scope)`"),
        (("--authenticate", ".relative:who"), "it must be module:function"),
        (("--host", "a..b"), "invalid host name"),
    ],
)
def test_an_invalid_option_is_a_one_line_error_at_start(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "plain.py").write_text("def who(scope): ...")
    done = subprocess.run(
        [sys.executable, "-m", "ragcore", "--data", "data", "serve", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_connection_without_a_complete_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client can't hold a connection by sending half a request, by sending an unread body, or by not reading the answers."""
    monkeypatch.setattr("ragcore.cli.serve.REQUEST_SECONDS", 0.4)
    monkeypatch.setattr("ragcore.cli.serve.WRITE_SECONDS", 0.2)
    made: list[Any] = []

    class Recorded(_with_timeouts(H11Protocol)):  # type: ignore[misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            made.append(transport)
            super().connection_made(transport)

    refusing = asgi.app(fake_rag())

    async def app(scope: asgi.Message, receive: Any, send: Any) -> None:
        if scope["path"] != "/endless":
            await refusing(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(500):  # far more than the socket buffers hold
            await send({"type": "http.response.body", "body": 64_000 * b"x", "more_body": True})

    config = uvicorn.Config(app, http=Recorded, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = listener.getsockname()
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [listener])
            requests = (
                b"",
                b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nG",
                b"POST /chat HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n{",
            )
            for request in requests:
                reader, writer = await asyncio.open_connection(*where)
                writer.write(request)
                with anyio.fail_after(30):
                    with suppress(ConnectionError):
                        while await reader.read(4096):
                            pass
                writer.close()
            reader, writer = await asyncio.open_connection(*where, limit=1)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
            with anyio.fail_after(10):
                while len(made) == len(requests) or not made[-1].is_closing():
                    await anyio.sleep(0.02)
            writer.transport.abort()
            server.should_exit = True
    assert [transport.is_closing() for transport in made] == [True] * (len(requests) + 1)

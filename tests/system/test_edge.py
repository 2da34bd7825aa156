"""The HTTP edge over real sockets, with two servers: what a security reviewer sends."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from ragcore.contrib import asgi
from ragcore.rag import RAG
from ragcore.testing import fake_rag
from ragcore.types import Document

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]
CANARY = "canary-hiv-treatment"


async def authenticate(scope: Any) -> asgi.Identity | None:
    user = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
    return asgi.Identity(user.removesuffix("!"), admin=user.endswith("!")) if user else None


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def with_documents(rag: RAG) -> None:
    await rag.add([Document("plan", "Your deductible is $1,500.")], tenant="m")


def by_uvicorn(app: asgi.ASGIApp, port: int) -> tuple[Callable[[], Any], Callable[[], None]]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="on"))
    return server.run, lambda: setattr(server, "should_exit", True)


def by_hypercorn(app: asgi.ASGIApp, port: int) -> tuple[Callable[[], Any], Callable[[], None]]:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = 0.5
    stopped = threading.Event()

    async def told() -> None:
        while not stopped.is_set():
            await asyncio.sleep(0.05)

    return lambda: asyncio.run(serve(app, config, shutdown_trigger=told)), stopped.set  # type: ignore[arg-type]


class Served:
    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, user: str = "m", **options: Any) -> httpx.Response:
        return httpx.request(
            method, self.url + path, headers={"authorization": f"Bearer {user}"}, timeout=30, **options
        )

    def raw(self, *lines: str, body: bytes = b"") -> tuple[int, bytes]:
        """The status and all that comes until the server ends the connection, or nothing more does."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            connection.settimeout(2)
            received = b""
            try:
                while piece := connection.recv(65_536):
                    received += piece
            except TimeoutError:
                pass
        return int(received.split(b" ", 2)[1]) if received else 0, received


@pytest.fixture(params=["uvicorn", "hypercorn"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    rag = fake_rag()
    app = asgi.app(rag, authenticate=authenticate)

    async def filled(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return

        async def told(message: Any) -> None:
            if message["type"] == "lifespan.startup.complete":
                await with_documents(rag)
            await send(message)

        await app(scope, receive, told)

    port = free_port()
    run, stop = (by_uvicorn if request.param == "uvicorn" else by_hypercorn)(filled, port)
    thread = threading.Thread(target=run)
    thread.start()
    made = Served(port)
    try:
        for _ in range(200):
            try:
                if httpx.get(f"{made.url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        yield made
    finally:
        stop()
        thread.join(20)
    assert not thread.is_alive()


def test_ambiguous_requests_are_refused(served: Served) -> None:
    head = ["POST /chat HTTP/1.1", "host: x", "content-type: application/json"]
    body = json.dumps({"message": "deductible?"}).encode()
    token, length = "authorization: Bearer m", f"content-length: {len(body)}"
    assert served.raw(*head, token, length, body=body)[0] == 200
    for extra in (
        [token, "authorization: Bearer other", length],
        [token, length, "transfer-encoding: chunked"],
        [token, length, "content-length: 3"],
        [token, "api-key: other", length],
    ):
        status, said = served.raw(*head, *extra, body=body)
        assert status in (400, 0), said  # or the server itself ends the connection


def test_questions_are_in_no_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = "/debug/rag-similarity/m"
    assert served.ask("GET", f"{path}?query={CANARY}").status_code == 405
    assert served.ask("GET", f"{path}?query={CANARY}", "root!").status_code == 200
    assert served.ask("POST", path, json={"query": CANARY, "threshold": 0.2}).status_code == 200
    assert served.ask("POST", "/chat", json={"message": CANARY}).status_code == 200
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("ragcore")]
    assert any(f"POST {path} 200" in line for line in ours)
    assert not any(CANARY in line for line in ours)


def test_one_members_reports_and_slow_bodies_do_not_slow_another_ones_chat(served: Served) -> None:
    def chat() -> float:
        began = time.perf_counter()
        assert served.ask("POST", "/chat", json={"message": "deductible?"}).status_code == 200
        return time.perf_counter() - began

    alone = max(chat() for _ in range(10))
    slow = []
    head = b"POST /chat HTTP/1.1\r\nhost: x\r\nauthorization: Bearer hog\r\ncontent-length: 900000\r\n\r\n"
    for _ in range(120):
        connection = socket.create_connection(("127.0.0.1", served.port), timeout=5)
        connection.sendall(head + b"x" * 100_000)
        slow.append(connection)
    with ThreadPoolExecutor(40) as pool:
        reports = [
            pool.submit(served.ask, "POST", "/debug/rag-similarity/hog", "hog", json={"query": "q"}) for _ in range(40)
        ]
        beside = max(chat() for _ in range(10))
        statuses = {one.result().status_code for one in reports}
    for connection in slow:
        connection.close()
    assert statuses <= {200, 429}
    assert beside < 10 * alone + 3  # the figure is the benchmark's; this only has to be no hang
    assert served.ask("POST", "/chat", "hog", json={"message": "deductible?"}).status_code == 200


def test_probes_need_no_token(served: Served) -> None:
    assert httpx.get(f"{served.url}/livez").json() == {"status": "alive"}
    assert httpx.get(f"{served.url}/readyz").json() == {"ready": True}
    assert httpx.get(f"{served.url}/health").json().keys() == {"status", "timestamp", "services"}
    assert httpx.get(f"{served.url}/debug/inflight").status_code == 401

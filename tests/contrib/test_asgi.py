"""ASGI without a framework: the app, disconnects, server-sent events, problems."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

import ragcore
from ragcore import RAG, Document
from ragcore.contrib import asgi
from ragcore.testing import Hang, Slow, fake_rag

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def authenticate(scope: Mapping[str, Any]) -> asgi.Identity | None:
    user = dict(scope["headers"]).get(b"x-user", b"").decode()
    return asgi.Identity(user.removesuffix("!"), admin=user.endswith("!")) if user else None


class Client:
    """One request to an ASGI application."""

    def __init__(self, app: asgi.ASGIApp) -> None:
        self._app = app
        self.gone = asyncio.Event()

    async def __call__(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
        }
        messages = [{"type": "http.request", "body": data, "more_body": False}]
        sent: list[asgi.Message] = []

        async def receive() -> asgi.Message:
            if messages:
                return messages.pop()
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: asgi.Message) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        if not sent:
            return 0, {}, b""
        received = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
        return sent[0]["status"], received, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
async def client(rag: RAG) -> Client:
    await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
    return Client(asgi.app(rag, authenticate=authenticate))


async def test_chat_as_json_and_as_events(client: Client) -> None:
    status, headers, body = await client("POST", "/chat", {"message": "deductible?"}, x_user="m")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body)["found"] is True
    status, headers, body = await client(
        "POST", "/chat", {"message": "deductible?"}, x_user="m", accept="text/event-stream"
    )
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    names = [line.removeprefix("event: ") for line in body.decode().splitlines() if line.startswith("event: ")]
    assert (names[0], set(names[1:-1]), names[-1]) == ("retrieved", {"delta"}, "done")


async def test_it_is_never_open_by_default(rag: RAG) -> None:
    closed = Client(asgi.app(rag))
    assert (await closed("GET", "/livez"))[0] == 200
    for method, path in (
        ("GET", "/health"),
        ("POST", "/chat"),
        ("GET", "/debug/inflight"),
        ("GET", "/readyz"),
        ("GET", "/nothing"),
    ):
        assert (await closed(method, path, x_user="m"))[0] == 401


async def test_health_routes_and_unknown_ones(client: Client) -> None:
    assert json.loads((await client("GET", "/health", x_user="m"))[2])["status"] == "healthy"
    assert (await client("GET", "/readyz", x_user="m"))[0] == 200
    assert (await client("GET", "/nothing", x_user="m"))[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b"3",
        {"history": []},
        {"message": ""},
        {"message": 3},
        {"message": "q", "history": [{"role": "system"}]},
    ],
)
async def test_a_bad_body_is_400(client: Client, body: object) -> None:
    status, _, answer = await client("POST", "/chat", body, x_user="m")
    assert (status, json.loads(answer)["error"]) == (400, "InvalidInput")


async def test_a_body_of_10_mb_is_413(client: Client) -> None:
    assert (await client("POST", "/chat", b"x" * 10_000_000, x_user="m"))[0] == 413


async def test_inflight_shows_a_tenant_its_own(client: Client, rag: RAG) -> None:
    rag.retriever.embedder.faults.always(Hang())  # type: ignore[union-attr]
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: rag.ask("q", tenant="m", timeout=5))
        await anyio.sleep(0.01)
        seen = {
            user: len(json.loads((await client("GET", "/debug/inflight", x_user=user))[2])["calls"])
            for user in ("m", "other", "root!")
        }
        group.cancel_scope.cancel()
    assert seen == {"m": 1, "other": 0, "root!": 1}


async def test_a_client_that_disconnects_cancels_the_call(client: Client, rag: RAG) -> None:
    rag.retriever.embedder.faults.always(Hang())  # type: ignore[union-attr]
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: client("POST", "/chat", {"message": "q"}, x_user="m"))
        await anyio.sleep(0.02)
        assert len(rag.inflight()) == 1
        client.gone.set()
    assert (rag.inflight(), rag.recent()[-1].outcome) == ((), "cancelled")


async def test_the_middleware_passes_bodies_answers_and_errors_on() -> None:
    async def app(scope: asgi.Message, receive: Any, send: Any) -> None:
        message = await receive()
        if message["body"] == b"boom":
            raise ValueError("the handler's own")
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": message["body"]})

    wrapped = Client(asgi.cancel_on_disconnect(app))
    assert await wrapped("POST", "/", b"hello") == (201, {}, b"hello")
    with pytest.raises(ValueError, match="the handler's own"):
        await wrapped("POST", "/", b"boom")


async def test_pings_come_while_nothing_does_and_a_broken_stream_ends_in_an_error() -> None:
    async with fake_rag() as rag:
        await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        rag._given.faults.next(Slow(0.1))  # type: ignore[attr-defined]
        async with rag.stream("deductible?", tenant="m") as stream:
            events = [event async for event in asgi.sse(stream, ping=0.02)]
        assert b": ping\n\n" in events
        assert events[-1].startswith(b"event: done")
        async with rag.stream("deductible?", tenant="m", timeout=0.05) as stream:
            await anyio.sleep(0.1)
            events = [event async for event in asgi.sse(stream)]
        assert events[-1].startswith(b"event: error")
        assert b"DeadlineExceeded" in events[-1]


async def test_lifespan_starts_and_closes() -> None:
    rag = fake_rag()
    app = asgi.app(rag)
    incoming = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]
    sent: list[str] = []

    async def receive() -> asgi.Message:
        return incoming.pop()

    async def send(message: asgi.Message) -> None:
        sent.append(f"{message['type']} {rag.is_open}")

    await app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete True", "lifespan.shutdown.complete False"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ragcore.InvalidInput("m"), 400),
        (ragcore.Overloaded("m", dependency="d", retry_after=1.2), 429),
        (ragcore.CircuitOpen("m", dependency="d"), 503),
        (ragcore.StoreError("m"), 503),
        (ragcore.DeadlineExceeded("m", budget=1, elapsed=1), 504),
        (ragcore.ConfigurationError("m"), 500),
    ],
)
def test_problems(error: ragcore.RagcoreError, status: int) -> None:
    problem = asgi.problem(error)
    assert problem.status == status
    assert problem.headers == ({"Retry-After": "2"} if status == 429 else {})
    assert problem.body["message"] == "m"

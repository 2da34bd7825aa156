"""ragcore in any ASGI application, without importing a framework."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

import anyio

from ragcore.errors import (
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    DependencyError,
    InvalidInput,
    NotOpen,
    Overloaded,
    RagcoreError,
)
from ragcore.rag import RAG
from ragcore.stream import AnswerStream
from ragcore.types import Delta, Done, Retrieved, StreamEvent

__all__ = ["ASGIApp", "Identity", "Message", "Problem", "app", "cancel_on_disconnect", "problem", "sse"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

logger = logging.getLogger("ragcore.asgi")

MAX_BODY = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as an HTTP response.

    Attributes:
        status: 400, 413, 429, 500, 503 or 504.
        headers: Retry-After where it is known.
        body: {"error", "message", "stage", "call_id"}.
    """

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: what the `authenticate` hook returns."""

    tenant: str
    _: KW_ONLY
    admin: bool = False


def problem(error: RagcoreError, /) -> Problem:
    """What to answer for an error; its message is safe to show."""
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    body = {"error": type(error).__name__, "message": str(error), "stage": error.stage, "call_id": error.call_id}
    return Problem(_status(error), headers, body)


def _status(error: RagcoreError) -> int:
    match error:
        case InvalidInput():
            return 400
        case Overloaded():
            return 429
        case DeadlineExceeded():
            return 504
        case CircuitOpen() | DependencyError() | NotOpen():
            return 503
        case ConfigurationError():
            return 500
    return 500


def cancel_on_disconnect(app: ASGIApp, /) -> ASGIApp:
    """Middleware that cancels the handler when its client disconnects, which Starlette, FastAPI and Litestar do not.

    The request's body must be read before the handler waits for long: the middleware passes messages on in order.

    Example:
        ```python
        app.add_middleware(asgi.cancel_on_disconnect)
        ```
    """

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        await _until_disconnect(app, scope, receive, send)

    return wrapped


async def _until_disconnect(app: ASGIApp, scope: Message, receive: Receive, send: Send) -> None:
    sender, receiver = anyio.create_memory_object_stream[Message](16)
    failed: BaseException | None = None
    async with anyio.create_task_group() as group, sender, receiver:

        async def watch() -> None:
            while True:
                try:
                    message = await receive()
                except Exception:
                    logger.debug("the server's receive failed: taken as a disconnect", exc_info=True)
                    message = {"type": "http.disconnect"}
                if message["type"] == "http.disconnect":
                    group.cancel_scope.cancel()
                    return
                await sender.send(message)

        group.start_soon(watch)
        try:
            await app(scope, receiver.receive, send)
        except Exception as error:  # raised again outside of the group, as itself
            failed = error
        group.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def sse(stream: AnswerStream, /, *, ping: float = 15.0) -> AsyncIterator[bytes]:
    """An entered stream as server-sent events: "retrieved", "delta", "done" or "error", with comments as pings while nothing comes.

    A ping comes in between without cancelling what is being waited for. Runs on asyncio, as ASGI servers do.

    Args:
        ping: seconds of silence after which a comment keeps proxies from closing the connection.

    Source: WHATWG HTML, server-sent events.
    """
    pending = _Step(stream)
    try:
        while True:
            await pending.wait(ping)
            if not pending.done:
                yield b": ping\n\n"
                continue
            event = pending.take()
            if event is None:
                return
            yield _encoded(event)
            if isinstance(event, RagcoreError):
                return
    finally:
        await pending.aclose()


class _Step:
    """The wait for the next event, in a task of its own, since a ping must not cancel it."""

    def __init__(self, stream: AnswerStream) -> None:
        self._stream = stream
        self._task: asyncio.Task[StreamEvent | RagcoreError | None] | None = None

    @property
    def done(self) -> bool:
        return self._task is not None and self._task.done()

    async def wait(self, seconds: float) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._next())
        await asyncio.wait([self._task], timeout=seconds)

    def take(self) -> StreamEvent | RagcoreError | None:
        task, self._task = self._task, None
        assert task is not None
        return task.result()

    async def aclose(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1.0)

    async def _next(self) -> StreamEvent | RagcoreError | None:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            return None
        except RagcoreError as error:
            return error


def _encoded(event: StreamEvent | RagcoreError) -> bytes:
    match event:
        case RagcoreError():
            name, data = "error", {**problem(event).body, "partial_text": event.partial_text}
        case Retrieved():
            name, data = "retrieved", event.to_dict()
        case Delta():
            name, data = "delta", event.to_dict()
        case Done():
            name, data = "done", event.to_dict()
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def app(
    rag: RAG, /, *, authenticate: Callable[[Mapping[str, Any]], Awaitable[Identity | None]] | None = None
) -> ASGIApp:
    """A small application: `POST /chat` (JSON, or SSE where the client accepts it), `GET /health`, `/livez`, `/readyz`, `/debug/inflight`.

    Args:
        rag: started and closed with the application's lifespan.
        authenticate: gets the ASGI scope, returns who asks, or None to refuse. Without it everything but /livez refuses: never open by default.
    """
    return _App(rag, authenticate)


class _App:
    def __init__(
        self, rag: RAG, authenticate: Callable[[Mapping[str, Any]], Awaitable[Identity | None]] | None
    ) -> None:
        self._rag = rag
        self._authenticate = authenticate

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await _until_disconnect(self._serve, scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._rag.start()
                except RagcoreError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._rag.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        route = (scope["method"], scope["path"])
        if route == ("GET", "/livez"):
            await _respond(send, 200, {"status": "alive"})
            return
        identity = await self._authenticate(scope) if self._authenticate else None
        if identity is None:
            await _respond(send, 401, {"error": "Unauthorized", "message": "not authenticated"})
            return
        try:
            match route:
                case ("POST", "/chat"):
                    await self._chat(scope, receive, send, identity)
                case ("GET", "/health"):
                    await _respond(send, 200, (await self._rag.health()).to_dict())
                case ("GET", "/readyz"):
                    health = await self._rag.health()
                    await _respond(send, 200 if health.ready else 503, {"ready": health.ready})
                case ("GET", "/debug/inflight"):
                    calls = [
                        call.to_dict()
                        for call in self._rag.inflight()
                        if identity.admin or call.tenant == identity.tenant
                    ]
                    await _respond(send, 200, {"calls": calls})
                case _:
                    await _respond(send, 404, {"error": "NotFound", "message": "no such route"})
        except RagcoreError as error:
            answer = problem(error)
            await _respond(send, answer.status, answer.body, answer.headers)

    async def _chat(self, scope: Message, receive: Receive, send: Send, identity: Identity) -> None:
        body = await _read_body(receive)
        if body is None:
            await _respond(send, 413, {"error": "TooLarge", "message": f"the body is larger than {MAX_BODY} bytes"})
            return
        try:
            asked = json.loads(body)
            message, history = asked["message"], asked.get("history") or []
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InvalidInput(
                'the body must be JSON like {"message": "…", "history": [{"role": "user", "content": "…"}]}'
            ) from None
        member = self._rag.for_tenant(identity.tenant)
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        if "text/event-stream" not in accept:
            await _respond(send, 200, (await member.ask(message, history=history)).to_dict())
            return
        async with member.stream(message, history=history) as stream:
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for event in sse(stream):
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read_body(receive: Receive) -> bytes | None:
    """The body, or None if it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def _respond(send: Send, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
    data = json.dumps(body, ensure_ascii=False).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    head += [(key.lower().encode(), value.encode()) for key, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": data})

"""One HTTP request and its response, over plain ASGI."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import aclosing
from typing import Any, TypeAlias
from urllib.parse import parse_qs

import anyio

from ragcore.contrib.asgi.public import public
from ragcore.value import Value

__all__ = ["ASGIApp", "ClientGone", "Exchange", "Message", "Receive", "Send", "encoded"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
# If a client reads nothing for this many seconds, its request ends.
WRITE_SECONDS = 30.0

ASGIApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


class ClientGone(Exception):
    """The client has disconnected or doesn't read, so no response can be sent."""


# The largest number of characters of a path that a line of the log shows.
MOST_SHOWN = 500


def encoded(data: Any) -> bytes:
    """Encode as JSON in UTF-8. A lone surrogate (half an emoji) can't be encoded and becomes a question mark."""
    return json.dumps(data, ensure_ascii=False).encode(errors="replace")


class Exchange:
    """One request and its response."""

    started: bool
    id: str

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        # In an application that is mounted below another one, the path begins with the mount point.
        path, root = scope["path"], scope.get("root_path", "").rstrip("/")
        self.path: str = path.removeprefix(root) if path.startswith(f"{root}/") else path
        # A random id. As soon as the request has a call, this is the call's id.
        self.id = secrets.token_hex(8)
        self.parameter: str | None = None
        self.started = False
        # The response's status, once it has begun.
        self.status: int | None = None
        # The request's body, once it is read.
        self.body = b""
        # Additional headers of the response.
        self.headers: dict[str, str] = {}
        # Whether to show details that only administrators may see.
        self.whole = False
        self._receive = receive
        self._send = send

    @property
    def where(self) -> str:
        """Method and path for a log. Line ends in the path are escaped, so that they can't forge a line of the log."""
        shown = f"{self.method} {self.path[:MOST_SHOWN]}"
        return shown if shown.isprintable() else ascii(shown)[1:-1]

    def header(self, name: str) -> str:
        """Return the value of a header; "" if the request does not have it."""
        value: bytes = dict(self.scope["headers"]).get(name.encode(), b"")
        return value.decode("latin-1")

    def query(self, name: str) -> str | None:
        """Return the value of a parameter in the query string; None if the URL does not have it."""
        values = parse_qs(self.scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        return values[name][0] if name in values else None

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the body in pieces, as it arrives.

        Raises:
            ClientGone: the client disconnected before the end of the body.
        """
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client disconnected before the end of its request")
            yield message.get("body", b"")
            more = message.get("more_body", False)

    async def show(self, value: Value, status: int = 200) -> None:
        """Send a value as JSON: complete for administrators, else without the details that tenants may not see."""
        await self.respond(status, value.to_dict() if self.whole else public(value))

    async def respond(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        """Send JSON."""
        await self.send(status, encoded(body), content_type="application/json", headers=headers)

    async def send(
        self, status: int, data: bytes, *, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole body. No cache stores it."""
        await self._start(
            status,
            {
                "content-type": content_type,
                "content-length": str(len(data)),
                "cache-control": "no-store",
                **(headers or {}),
            },
        )
        await self._write({"type": "http.response.body", "body": b"" if self.method == "HEAD" else data})

    async def stream(self, events: AsyncGenerator[bytes, None]) -> None:
        """Send each server-sent event as soon as it is available."""
        # Without the header x-accel-buffering, nginx would buffer the events.
        headers = {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}
        await self._start(200, headers)
        async with aclosing(events):
            async for event in events:
                await self._write({"type": "http.response.body", "body": event, "more_body": True})
        await self._write({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started = True
        self.status = status
        headers = {"x-request-id": self.id, **self.headers, **headers}
        lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self._write({"type": "http.response.start", "status": status, "headers": lines})

    async def _write(self, message: Message) -> None:
        """Send a message.

        Raises:
            ClientGone: the client has disconnected, or has read nothing for 30 s.
        """
        with anyio.move_on_after(WRITE_SECONDS):
            try:
                await self._send(message)
            except OSError as error:
                raise ClientGone(f"the client disconnected before the end of the response ({error})") from error
            except RuntimeError as error:
                if "closed" not in str(error):  # uvloop's error for a client that has disconnected
                    raise
                raise ClientGone(f"the client disconnected before the end of the response ({error})") from error
            return
        raise ClientGone(f"the client has read nothing for {WRITE_SECONDS:g} s")

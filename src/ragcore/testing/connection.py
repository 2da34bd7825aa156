"""One HTTP/1.1 connection of a test server, based on h11."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
import anyio.abc

__all__ = ["Connection"]

MOST_BODY = 64 * 1024 * 1024


class Connection:
    """One HTTP/1.1 connection."""

    def __init__(self, h11: Any, stream: anyio.abc.SocketStream) -> None:
        self._h11 = h11
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_BODY)

    async def receive(self) -> tuple[str, dict[str, str], bytes] | None:
        """Return (path, headers, body) of the next request; None when the client has closed the connection."""
        request, body = None, bytearray()
        while True:
            event = self._http.next_event()
            if event is self._h11.NEED_DATA:
                try:
                    self._http.receive_data(await self._stream.receive())
                except anyio.EndOfStream:
                    self._http.receive_data(b"")
            elif isinstance(event, self._h11.Request):
                request = event
            elif isinstance(event, self._h11.Data):
                body += event.data
            elif isinstance(event, self._h11.EndOfMessage):
                assert request is not None
                headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in request.headers}
                return request.target.decode().partition("?")[0], headers, bytes(body)
            else:
                return None

    async def wait_until_gone(self, gone: Any) -> None:
        """Call `gone` when the client closes its side. Requests that arrive before that are kept for later."""
        try:
            while True:
                self._http.receive_data(await self._stream.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            gone()

    def next(self) -> bool:
        """Prepare for another request on this connection. Returns whether that is possible."""
        if self._http.our_state is self._h11.DONE and self._http.their_state is self._h11.DONE:
            self._http.start_next_cycle()
            return True
        return False

    async def send_json(
        self, status: int, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a JSON response."""
        await self.send(status, "application/json", json.dumps(body).encode(), headers=headers)

    async def send(
        self, status: int, content_type: str, body: bytes, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole response."""
        await self._send(status, content_type, {**(headers or {}), "content-length": str(len(body))}, body)
        await self._end()

    async def send_head(self, status: int, content_type: str) -> None:
        """Send the head of a response whose body may never follow."""
        await self._send(status, content_type, {"transfer-encoding": "chunked"})

    async def send_huge(self, size: int) -> None:
        """Send a body of `size` bytes of white space."""
        await self._send(200, "application/json", {"content-length": str(size)})
        piece = b" " * 65_536
        for _ in range(size // len(piece)):
            await self._data(piece)
        await self._data(b" " * (size % len(piece)))
        await self._end()

    async def send_endless(self, status: int) -> None:
        """Send white space without end."""
        await self.send_head(status, "application/json")
        while True:
            await self._data(b" " * 65_536)

    async def send_crumbs(self, count: int) -> None:
        """Send `count` newlines, each as a separate chunk, many in one packet."""
        await self.send_head(200, "text/event-stream")
        chunk = b"".join(self._http.send_with_data_passthrough(self._h11.Data(data=b"\n")))
        for at in range(0, count, 4_096):
            await self._stream.send(chunk * min(4_096, count - at))
        await self._end()

    async def send_events(
        self, events: AsyncIterator[Mapping[str, Any]], *, done: bool = True, end: bool = True
    ) -> None:
        """Send server-sent events, then [DONE], then the end of the body."""
        await self.send_head(200, "text/event-stream")
        async for event in events:
            await self._data(f"data: {json.dumps(event)}\n\n".encode())
        if done:
            await self._data(b"data: [DONE]\n\n")
        if end:
            await self._end()

    async def end_badly(self, how: str) -> None:
        """Prepare to close the connection in the middle of a body, with or without a reset."""
        if how == "reset":
            await anyio.sleep(0.01)  # wait until the sent data has arrived
            raw = self._stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610  # anyio, not Django
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _send(self, status: int, content_type: str, headers: Mapping[str, str], data: bytes = b"") -> None:
        head = {"content-type": content_type, **headers, "x-request-id": f"req-{id(self._http):x}"}
        response = self._h11.Response(status_code=status, headers=list(head.items()))
        sent = self._http.send(response)
        if data:
            sent += self._http.send(self._h11.Data(data=data))
        await self._stream.send(sent)

    async def _data(self, data: bytes) -> None:
        await self._stream.send(self._http.send(self._h11.Data(data=data)))

    async def _end(self) -> None:
        rest = self._http.send(self._h11.EndOfMessage())
        if rest:
            await self._stream.send(rest)

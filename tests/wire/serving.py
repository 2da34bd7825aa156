"""A server on loopback that sends exactly the bytes that a test gives it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Self

import anyio
import anyio.abc

from tests.wire.shapes import Reply

__all__ = ["Scripted"]


class Scripted:
    """Answers the first request with the first reply, and so on. The last reply is repeated.

    Args:
        replies: the replies, in order.
        cuts: sizes of the pieces in which bodies are sent, repeated from the first; (): one piece.
        end: the end of a body: "whole" (correctly ended), "close" (the connection closes, without a length), "reset", "short" (shorter than the
            announced length).
    """

    def __init__(self, replies: Sequence[Reply], *, cuts: Sequence[int] = (), end: str = "whole") -> None:
        self._replies = replies
        self._cuts = cuts
        self._end = end
        self.requests: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.base_url = ""

    async def __aenter__(self) -> Self:
        self._listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = self._listener.extra(anyio.abc.SocketAttribute.local_port)
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._listener.serve, self._serve)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)
        await self._listener.aclose()

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                while await self._answer(stream):
                    pass
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass

    async def _answer(self, stream: anyio.abc.SocketStream) -> bool:
        read = b""
        while b"\r\n\r\n" not in read:
            read += await stream.receive()
        head, _, body = read.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        while length is not None and len(body) < int(length[1]):
            body += await stream.receive()
        self.heads.append(head.decode("latin-1"))
        self.requests.append(json.loads(body or b"{}"))
        reply = self._replies[min(len(self.requests), len(self._replies)) - 1]
        await self._send(stream, reply)
        return self._end == "whole"

    async def _send(self, stream: anyio.abc.SocketStream, reply: Reply) -> None:
        framing = {
            "whole": "transfer-encoding: chunked",
            "close": "connection: close",
            "reset": "transfer-encoding: chunked",
            "short": f"content-length: {len(reply.body) + 100}",
        }[self._end]
        lines = [f"HTTP/1.1 {reply.status} X", framing, *(f"{name}: {value}" for name, value in reply.headers.items())]
        await stream.send("\r\n".join([*lines, "", ""]).encode())
        for piece in self._pieces(reply.body):
            await stream.send(b"%x\r\n%s\r\n" % (len(piece), piece) if "chunked" in framing else piece)
            if self._cuts:
                await anyio.sleep(0)
        if self._end == "whole":
            await stream.send(b"0\r\n\r\n")
        if self._end == "reset":
            await anyio.sleep(0.01)  # wait until the data has arrived
            raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER of 0: the close is a reset

    def _pieces(self, body: bytes) -> list[bytes]:
        if not self._cuts:
            return [body] if body else []
        pieces, at, number = [], 0, 0
        while at < len(body):
            size = self._cuts[number % len(self._cuts)]
            pieces.append(body[at : at + size])
            at, number = at + size, number + 1
        return pieces

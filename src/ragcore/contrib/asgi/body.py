"""Reads a request's body, up to a limit."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import aclosing

import anyio

from ragcore.contrib.asgi.exchange import ASGIApp, ClientGone, Exchange, Message, Receive, Send
from ragcore.contrib.asgi.problem import Refused

__all__ = ["MAX_BODY", "body_of", "limit_body"]

MAX_BODY = 1024 * 1024
READ_SECONDS = 30.0


def limit_body(app: ASGIApp, /, *, most: int = MAX_BODY) -> ASGIApp:
    """Middleware that refuses bodies larger than `most` with status 413. Starlette and FastAPI have no such limit.

    Args:
        most: the limit in bytes. A body is held in memory until the handler reads it.

    Examples:
        ```python
        app.add_middleware(asgi.limit_body, most=64_000)
        ```
    """

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        try:
            try:
                read = [await body_of(exchange, most)]
            except Refused as refused:
                await exchange.respond(refused.problem.status, refused.problem.body, refused.problem.headers)
                return
        except ClientGone:
            return

        async def replayed() -> Message:
            if read:
                return {"type": "http.request", "body": read.pop(), "more_body": False}
            return await receive()

        # The application gets the decompressed body, whose length is known. If a request gave both headers of the length, it stays ambiguous.
        both = {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}
        left_out = {b"content-encoding", b"content-length"} | (set() if both else {b"transfer-encoding"})
        headers = [(name, value) for name, value in scope["headers"] if name not in left_out]
        length = str(len(read[0])).encode()
        await app({**scope, "headers": [*headers, (b"content-length", length)]}, replayed, send)

    return wrapped


async def body_of(exchange: Exchange, most: int, *, hold: Callable[[int], None] | None = None) -> bytes:
    """Read the whole body.

    Args:
        most: the limit in bytes.
        hold: called for each piece with the number of bytes that it adds in memory, before the next piece is read.

    Raises:
        Refused: the body is larger than `most` bytes, compressed or decompressed (reading stops there); it did not arrive within 30 s; its encoding is
            neither gzip nor deflate, or it is corrupt.
        ClientGone: the client disconnected before the end of the body.
    """
    too_large = Refused(413, "TooLarge", f"the body is larger than {most:,} bytes", {"Connection": "close"})
    length = exchange.header("content-length")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > most):
        raise too_large
    body = bytearray()
    received = 0
    unpacker = _unpacker(exchange.header("content-encoding"))
    with anyio.move_on_after(READ_SECONDS):
        async with aclosing(exchange.pieces()) as pieces:
            async for piece in pieces:
                received += len(piece)
                before = len(body)
                body += piece if unpacker is None else unpacker.unpack(piece, most + 1 - len(body))
                if hold is not None:
                    hold(len(body) - before)
                if len(body) > most or received > most:
                    raise too_large
        if unpacker is not None and received:
            unpacker.check_end()
        return bytes(body)
    raise Refused(408, "RequestTimeout", f"the body did not arrive within {READ_SECONDS:g} s", {"Connection": "close"})


def _unpacker(encoding: str) -> _Unpacker | None:
    """Return what decompresses a body; None if the body is not compressed."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in ("gzip", "x-gzip", "deflate"):
        raise Refused(415, "UnsupportedEncoding", "the body must be uncompressed, or compressed with gzip or deflate")
    return _Unpacker(name)


class _Unpacker:
    """Decompresses a body, piece by piece."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Recognises the headers of both formats.
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._begun = b""  # the first bytes after the end of a gzip member

    def unpack(self, piece: bytes, most: int) -> bytes:
        """Decompress a piece up to a number of bytes."""
        unpacked = bytearray()
        piece = self._member.unconsumed_tail + piece
        try:
            while piece and len(unpacked) < most:
                if self._member.eof:
                    piece = self._begun + piece
                    self._begun = piece[:2]
                    # Without this mark, it is padding, or only the first byte of another gzip member has arrived.
                    if self._begun != b"\x1f\x8b":
                        break
                    self._begun = b""
                    self._member = zlib.decompressobj(zlib.MAX_WBITS | 32)  # another gzip member follows: RFC 1952, 2.2
                unpacked += self._member.decompress(piece, max(1, most - len(unpacked)))
                if not self._member.eof:
                    break
                piece = self._member.unused_data
        except zlib.error:
            raise self._refused(
                f"can't be decompressed with {self._name}, the encoding that its header names"
            ) from None
        return bytes(unpacked)

    def check_end(self) -> None:
        """Refuse a body that ends before the end of the compressed data. Its checksum is there, too."""
        if not self._member.eof:
            raise self._refused(f"ends before the end of its {self._name} data")

    def _refused(self, what: str) -> Refused:
        return Refused(400, "InvalidInput", f"the body {what}")

"""Reads response bodies within limits and without blocking the event loop.

This module decompresses bodies itself, because HTTP transports limit the size in different ways. Source: RFC 9110 §8.4.1
(content codings); the output limits of zlib, brotli and zstd.
"""

from __future__ import annotations

import importlib
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from anyio.lowlevel import checkpoint

from ragcore.lifecycle.owner import cleaning_up
from ragcore.resilience.clock import running
from ragcore.wire.refusal import Undecodable

__all__ = ["MAX_BODY", "Response", "pieces", "whole"]

# 2,048 vectors of 3,072 dimensions in base64 are 34 MB. ragcore never requests more.
MAX_BODY = 64 * 1024 * 1024
# Bytes to decompress in one step.
PIECE = 64 * 1024
# The first bytes of a gzip member and of a zstd frame.
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# After this many seconds of processing buffered data, other tasks get a turn.
TURN = 0.0005


class Response(Protocol):
    """An HTTP response with an unread body."""

    @property
    def status_code(self) -> int:
        """The status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The response's headers."""
        ...

    def aiter_raw(self) -> AsyncIterator[bytes]:
        """Return the body as received, still compressed."""
        ...

    async def aclose(self) -> None:
        """Release or close the connection."""
        ...


async def pieces(response: Response, /, *, most: int = MAX_BODY) -> AsyncGenerator[bytes, None]:
    """Yield the decompressed body in pieces of about 64 KiB at most. Other tasks run in between, even if everything is buffered.

    Raises:
        Undecodable: the body is larger than `most` bytes, or has an unsupported encoding.
    """
    decode = _decoder(response.headers.get("content-encoding", ""))
    size = received = 0
    began = time.perf_counter()
    source: Any = response.aiter_raw()
    try:
        async for raw in source:
            received += len(raw)
            if received > most:
                raise Undecodable(f"its answer is larger than {_size(most)}")
            for piece in (raw,) if decode is None else decode(raw):
                size += len(piece)
                if size > most:
                    raise Undecodable(f"its answer is larger than {_size(most)}")
                yield piece
                if time.perf_counter() - began > TURN:
                    await checkpoint()
                    began = time.perf_counter()
    finally:
        # Close the response first. Then the generators of the transport have nothing to wait for and end at once.
        with cleaning_up():
            await response.aclose()
            if running()[0] is None:
                await _exhaust(source)
            await source.aclose()


async def _exhaust(source: AsyncIterator[bytes]) -> None:
    """Read from a closed response until this raises an error. The error ends a generator of httpx2; trio warns about generators that don't end."""
    try:
        async for _ in source:
            pass
    except Exception:
        return


async def whole(response: Response, /, *, most: int = MAX_BODY) -> bytes:
    """Return the whole body.

    Raises:
        Undecodable: as `pieces`.
    """
    body = bytearray()
    async with aclosing(pieces(response, most=most)) as read:
        async for piece in read:
            body += piece
    return bytes(body)


def _size(most: int) -> str:
    return f"{most // 1024 // 1024} MB" if most >= 1024 * 1024 else f"{most // 1024} kB"


class _Decode(Protocol):
    def __call__(self, data: bytes, /) -> Iterator[bytes]: ...


def _decoder(encoding: str) -> _Decode | None:
    """Return a function that decompresses in bounded pieces; None for an uncompressed body."""
    names = [name for part in encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if not names:
        return None
    if len(names) > 1:
        raise Undecodable(f"its answer is compressed more than once ({encoding[:80]})")
    match names[0]:
        case "gzip" | "x-gzip":
            return _zlib(zlib.MAX_WBITS | 16)
        case "deflate":
            return _deflate()
        case "br":
            return _brotli()
        case "zstd":
            return _zstd()
    raise Undecodable(
        f"its answer is compressed with {names[0][:40]!r}, which ragcore did not request and can't decompress"
    )


def _zlib(bits: int) -> _Decode:
    decompressor = zlib.decompressobj(bits)
    begun = b""  # the first bytes after a member

    def decode(data: bytes, /) -> Iterator[bytes]:
        nonlocal decompressor, begun
        while data:
            if decompressor.eof:
                data = begun + data
                begun = data[:2]
                if data[:2] != GZIP:  # ignore it: it is padding, or has too few bytes to decide
                    return
                begun = b""
                decompressor = zlib.decompressobj(bits)  # another member: RFC 1952, 2.2
            try:
                piece = decompressor.decompress(data, PIECE)
            except zlib.error as error:
                raise Undecodable(f"its answer can't be decompressed ({error})") from None
            data = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
            if piece:
                yield piece
            elif not data:
                return

    return decode


def _deflate() -> _Decode:
    """Return a function that decompresses deflate with zlib's header, as in the RFC, or without it, as some servers send it."""
    chosen: list[_Decode] = []

    def decode(data: bytes, /) -> Iterator[bytes]:
        if not chosen and data:
            with_header = data[0] & 0x0F == 8 and (len(data) == 1 or int.from_bytes(data[:2], "big") % 31 == 0)
            chosen.append(_zlib(zlib.MAX_WBITS if with_header else -zlib.MAX_WBITS))
        yield from chosen[0](data) if chosen else ()

    return decode


def _brotli() -> _Decode:
    module = _module("br", "brotli", "brotlicffi")
    decompressor = module.Decompressor()
    process = getattr(decompressor, "process", None) or decompressor.decompress

    def decode(data: bytes, /) -> Iterator[bytes]:
        try:
            piece = process(data, output_buffer_limit=PIECE)
            while piece:
                yield piece
                piece = process(b"", output_buffer_limit=PIECE)
        except (module.error, TypeError) as error:  # old versions of brotli have no output limit
            raise Undecodable(f"its answer can't be decompressed with a size limit ({error})") from None

    return decode


def _zstd() -> _Decode:
    module = _module("zstd", "compression.zstd", "backports.zstd")
    decompressor = module.ZstdDecompressor()
    begun = b""  # the first bytes after a frame

    def decode(data: bytes, /) -> Iterator[bytes]:
        nonlocal decompressor, begun
        try:
            while True:
                if decompressor.eof:
                    data = begun + data
                    begun = data[:4]
                    if begun != ZSTD:
                        return
                    begun = b""
                    decompressor = module.ZstdDecompressor()  # another frame: RFC 8878, 3.1
                piece = decompressor.decompress(data, PIECE)
                if piece:
                    yield piece
                if decompressor.eof:
                    data = decompressor.unused_data
                elif decompressor.needs_input:
                    return
                else:
                    data = b""
        except (module.ZstdError, EOFError) as error:
            raise Undecodable(f"its answer can't be decompressed ({error})") from None

    return decode


def _module(encoding: str, *names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise Undecodable(f"its answer is compressed with {encoding!r}, which ragcore did not request and can't decompress")

"""Bodies of every encoding are read within limits and without blocking the event loop."""

from __future__ import annotations

import gzip
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping

import anyio
import brotli  # type: ignore[import-untyped]
import pytest

from ragcore.wire.bodies import MAX_BODY, PIECE, pieces, whole
from ragcore.wire.refusal import Undecodable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.anyio
MEBI = 1024 * 1024


class Received:
    """A response that has arrived, in pieces of a given size."""

    def __init__(self, body: bytes, encoding: str = "", *, size: int = 10_000) -> None:
        self.status_code = 200
        self.headers: Mapping[str, str] = {"content-encoding": encoding} if encoding else {}
        self._body = body
        self._size = size
        self.closed = 0

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._body), self._size):
            yield self._body[at : at + self._size]

    async def aclose(self) -> None:
        self.closed += 1


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


PACK = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw deflate": raw_deflate,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("how", PACK)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_compressed_body_is_decompressed(how: str, size: int) -> None:
    data = bytes(range(256)) * 40
    response = Received(PACK[how](data), how.removeprefix("raw "), size=size)
    assert await whole(response) == data
    assert response.closed


@pytest.mark.parametrize(("how", "pack"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
@pytest.mark.parametrize("size", [1, 10_000])
async def test_several_members_are_one_body(how: str, pack: Callable[[bytes], bytes], size: int) -> None:
    body = pack(b"one ") + pack(b"two ") + pack(b"three") + b"\0" * 20
    assert await whole(Received(body, how, size=size)) == b"one two three"


async def test_bytes_after_a_member_are_counted_too() -> None:
    response = Received(gzip.compress(b"x") + b"\0" * (4 * MEBI), "gzip")
    with pytest.raises(Undecodable, match="larger than 1 MB"):
        await whole(response, most=MEBI)


@pytest.mark.parametrize("how", PACK)
async def test_a_bomb_is_bounded_in_memory_and_in_total_size(how: str) -> None:
    bomb = PACK[how](b"\n" * (8 * MEBI))
    assert len(bomb) < MEBI
    largest = 0
    with pytest.raises(Undecodable, match="larger than 1 MB"):
        async for piece in pieces(Received(bomb, how.removeprefix("raw ")), most=MEBI):
            largest = max(largest, len(piece))
    assert largest <= 2 * PIECE  # brotli may return somewhat more than requested


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("compress", "'compress'"),
        ("gzip, br", "more than once"),
        ("gzip", "can't be decompressed"),
        ("br", "decompressed"),
        ("zstd", "decompressed"),
    ],
)
async def test_a_body_that_can_not_be_decompressed_is_an_error_with_the_reason(encoding: str, said: str) -> None:
    with pytest.raises(Undecodable, match=said):
        await whole(Received(b"this is not packed at all", encoding))


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.slow
async def test_other_tasks_run_while_a_body_is_read(size: int) -> None:
    """This holds for any amount of buffered data, for example 2 MB in pieces of one byte or 32 MB at once."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.sleep(0)

    body = b"\n" * (32 * MEBI if size > 1 else 2 * MEBI)
    async with anyio.create_task_group() as group:
        group.start_soon(other)
        began = time.perf_counter()
        await whole(Received(body, size=size), most=MAX_BODY)
        took = time.perf_counter() - began
        group.cancel_scope.cancel()
    assert turns >= min(took / 0.1, 3)

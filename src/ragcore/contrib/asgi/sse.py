"""An answer's stream as server-sent events.

Source: WHATWG HTML, server-sent events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, TypeAlias

from ragcore.client.stream import AnswerStream
from ragcore.contrib.asgi.exchange import encoded
from ragcore.contrib.asgi.problem import problem
from ragcore.contrib.asgi.public import public
from ragcore.errors import RagcoreError
from ragcore.types import Delta, Done, Retrieved, StreamEvent

if TYPE_CHECKING:
    from ragcore.rollout import RolloutStream

__all__ = ["PING", "Step", "sse", "sse_event", "steps"]

PING = b": ping\n\n"
PING_SECONDS = 15.0
# A step is None if there was no event for `ping` seconds.
Step: TypeAlias = StreamEvent | RagcoreError | None


async def sse(
    stream: AnswerStream | RolloutStream, /, *, ping: float = PING_SECONDS, whole: bool = False
) -> AsyncGenerator[bytes, None]:
    """Yield an entered stream as server-sent events ("retrieved", "delta", "done" or "error"), with comments as pings during silence.

    A ping does not cancel the wait for the next event. The function needs asyncio, on which ASGI servers run.

    Args:
        ping: seconds of silence after which a comment is sent, so that proxies keep the connection open.
        whole: True: include operator-only details, which `public` and `problem` leave out.
    """
    async for step in steps(stream, ping=ping):
        yield PING if step is None else sse_event(step, whole=whole)


async def steps(stream: AnswerStream | RolloutStream, /, *, ping: float = PING_SECONDS) -> AsyncIterator[Step]:
    """Yield the events of an entered stream, and None after each `ping` seconds of silence. An error that ends the stream is yielded as the last item."""
    pending = _Pending(stream)
    try:
        while True:
            await pending.wait(ping)
            if not pending.done:
                yield None
                continue
            event = pending.take()
            if event is None:
                return
            yield event
            if isinstance(event, RagcoreError):
                return
    finally:
        await pending.aclose()


def sse_event(event: StreamEvent | RagcoreError, /, *, whole: bool = False) -> bytes:
    """Return one event of a stream, or its error, as a server-sent event. Use it with `ragcore.blocking`, whose streams are read without `await`."""
    match event:
        case RagcoreError():
            name, data = "error", {**problem(event, whole=whole).body, "partial_text": event.partial_text}
        case Retrieved() | Delta() | Done():
            name, data = type(event).__name__.lower(), event.to_dict() if whole else public(event)
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encoded(data))


class _Pending:
    """The wait for the next event. It has its own task, because a ping must not cancel it."""

    def __init__(self, stream: AnswerStream | RolloutStream) -> None:
        self._stream = stream
        self._task: asyncio.Task[Step] | None = None

    @property
    def done(self) -> bool:
        return self._task is not None and self._task.done()

    async def wait(self, seconds: float) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._next())
        await asyncio.wait([self._task], timeout=seconds)

    def take(self) -> Step:
        task, self._task = self._task, None
        assert task is not None
        return task.result()

    async def aclose(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1.0)

    async def _next(self) -> Step:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            return None
        except RagcoreError as error:
            return error

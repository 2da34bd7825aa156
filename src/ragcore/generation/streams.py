"""Turns a whole answer into a stream, and a stream into a whole answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

from ragcore.errors import GenerationError
from ragcore.types import Generation

__all__ = ["at_once", "collect"]


@asynccontextmanager
async def at_once(generation: Awaitable[Generation], /) -> AsyncIterator[AsyncIterator[str | Generation]]:
    """Return a stream of one piece, for generators that can't stream.

    Examples:
        ```python
        class Mine:
            async def generate(self, prompt): ...
            def stream(self, prompt): return generation.at_once(self.generate(prompt))
        ```
    """

    async def pieces() -> AsyncGenerator[str | Generation, None]:
        whole = await generation
        if whole.text:
            yield whole.text
        yield whole

    try:
        async with aclosing(pieces()) as stream:
            yield stream
    finally:
        close = getattr(generation, "close", None)
        if close is not None:
            close()  # a coroutine that was never awaited


async def collect(
    stream: AbstractAsyncContextManager[AsyncIterator[str | Generation]],
    /,
    *,
    on_piece: Callable[[str | Generation], None] | None = None,
) -> Generation:
    """Read a stream to its end and return its `Generation`.

    Args:
        on_piece: called with each piece.

    Raises:
        GenerationError: the stream ended without a `Generation`.
    """
    async with stream as pieces:
        async for piece in pieces:
            if on_piece is not None:
                on_piece(piece)
            if isinstance(piece, Generation):
                return piece
    raise GenerationError("the generator's stream ended without a result: it broke", stage="generate")

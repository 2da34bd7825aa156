"""Reads a generator's stream in the task that reads the answer.

It works only for generators that hold neither a cancel scope nor a task group open across a `yield`. Unlike `Relay`, it needs no additional task.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from ragcore.generation.source import Piece, Source, checked, failure
from ragcore.lifecycle.closing import close_quietly, closing
from ragcore.lifecycle.operations import Operation
from ragcore.lifecycle.owner import cleaning_up
from ragcore.protocols import Generator
from ragcore.types import Prompt

__all__ = ["Direct"]


class Direct(Source):
    """One stream of a generator, read in the reader's task. Each piece may be read by another task.

    Invariant: no cancel scope is open between two pieces. A reader that is cancelled while it waits for a piece ends the generator at once.

    Args:
        generator, prompt: the generator, and the prompt that it answers.
        name, first_within, place_within: as in `Source`.
    """

    def __init__(
        self,
        generator: Generator,
        prompt: Prompt,
        *,
        name: str,
        first_within: float = math.inf,
        place_within: float = math.inf,
    ) -> None:
        super().__init__(generator, prompt, name=name, first_within=first_within, place_within=place_within)
        self._pieces = self._read(generator, prompt)

    def __anext__(self) -> Awaitable[Piece]:
        return self._pieces.__anext__()  # no coroutine wraps it, because that would cost time for each piece

    async def _leave(self) -> None:
        """Leave the stream and close its request, within the time limit of a clean-up."""
        with cleaning_up():
            await close_quietly(self._pieces)

    async def _read(self, generator: Generator, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        failed: BaseException | None = None
        observed = self._operation.observed
        try:
            stream = generator.stream(prompt)
            async with _Steps(stream, self._operation) if observed else stream as pieces, closing(pieces):
                try:
                    async for piece in pieces:
                        if piece != "":
                            whole = checked(piece, self.name)
                            if observed:
                                self._saw(whole)
                            yield whole
                except Exception as error:
                    failed = error  # an error while leaving the stream must not hide this one
                    raise
        except Exception as error:
            ours = failure(failed or error, self.name)
            self._operation.failed(ours)
            raise ours from (failed or error).__cause__


class _Steps(AbstractAsyncContextManager["_Steps"], AsyncIterator[Piece]):
    """A stream whose operation is the current one in each step: in entering it and in reading a piece, but not between two pieces."""

    _pieces: AsyncIterator[Piece]

    def __init__(self, stream: AbstractAsyncContextManager[AsyncIterator[Piece]], operation: Operation) -> None:
        self._stream = stream
        self._operation = operation

    async def __aenter__(self) -> Self:
        with self._operation.active():
            self._pieces = await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> bool | None:
        return await self._stream.__aexit__(exc_type, exc, traceback)

    async def __anext__(self) -> Piece:
        with self._operation.active():
            return await self._pieces.__anext__()

    async def aclose(self) -> None:
        await close_quietly(self._pieces)

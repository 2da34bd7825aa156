"""A generator's stream, run in a task of its own, so that whoever reads it may wait for a limited time, in any task, and leave.

A generator of the user's may hold a task group or a cancel scope open around its `yield`. Such a stream must be entered and left in one
task, and no scope of ours may be opened around its entering and closed before its end. So it is entered, read and left here.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import AsyncIterator
from typing import TypeAlias

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ragcore.errors import GenerationError, RagcoreError
from ragcore.generation.ending import says_nothing
from ragcore.lifecycle.bound import expires_at, inherit
from ragcore.lifecycle.closing import closing
from ragcore.lifecycle.owner import Owner, cleaning_up
from ragcore.protocols import Generator
from ragcore.resilience.patience import Patience, patience_in_force
from ragcore.types import Generation, Prompt

__all__ = ["Relay"]

Piece: TypeAlias = str | Generation

# Pieces that may wait for the reader: enough to spare a switch of tasks for each, few enough to be back-pressure.
AHEAD = 16


class Relay:
    """One stream of a generator. Iterate over it, and `aclose` it in the end.

    Args:
        owner: whose task group it runs in.
        name: of the generator, in errors.
        first_within: seconds that the generator may take to its first word, without the time in queues of ours.
        place_within: seconds that it may take to find a place for the request.
    """

    def __init__(
        self,
        owner: Owner,
        generator: Generator,
        prompt: Prompt,
        *,
        name: str,
        first_within: float = math.inf,
        place_within: float = math.inf,
    ) -> None:
        self._generator = generator
        self._prompt = prompt
        self.name = name
        self._when = expires_at()
        self._scope = anyio.CancelScope()
        self._pieces: list[Piece] = []
        self._arrived: anyio.Event | None = None
        self._room: anyio.Event | None = None
        self._left = False
        self._ended = anyio.Event()
        self._error: BaseException | None = None
        self._patience = Patience(first_within, place_by=anyio.current_time() + place_within)
        context = contextvars.copy_context()
        context.run(patience_in_force.set, self._patience)
        owner.spawn(self._run, name=f"stream of {name}", context=context)

    async def first(self) -> Piece:
        """The first piece, within its time.

        Raises:
            GenerationError: it took longer, or the stream ended without one.
        """
        with self._patience as patience:
            try:
                return await self.__anext__()
            except StopAsyncIteration:
                raise GenerationError(
                    f"{self.name} ended without a result", dependency=self.name, stage="generate"
                ) from None
        raise GenerationError(
            f"{self.name} did not begin to answer within {patience.seconds:.1f} s",
            dependency=self.name,
            stage="generate",
        )

    def __aiter__(self) -> Relay:
        return self

    async def __anext__(self) -> Piece:
        """Return the next piece. Text that has accumulated is joined, so a slow reader gets fewer, longer pieces."""
        while not self._pieces:
            if self._left or self._ended.is_set():
                await self._ended.wait()
                return self._end()
            self._arrived = anyio.Event()
            await self._arrived.wait()
        await checkpoint_if_cancelled()
        pieces = self._pieces
        text = ""
        while pieces and isinstance(pieces[0], str):
            text += pieces.pop(0)  # type: ignore[operator]  # as was just seen
        piece = text or pieces.pop(0)
        if self._room is not None:
            self._room.set()
        return piece

    def _end(self) -> Piece:
        if self._error is None:
            raise StopAsyncIteration
        if isinstance(self._error, RagcoreError):
            raise self._error
        raise GenerationError(
            f"the generator {self.name} raised {type(self._error).__name__}", dependency=self.name, stage="generate"
        ) from self._error

    async def aclose(self) -> None:
        """Leave the stream: what still runs is cancelled; what isn't gone soon ends in the owner task."""
        self._scope.cancel()
        self._left = True
        self._pieces.clear()
        if not self._ended.is_set():
            with cleaning_up():
                await self._ended.wait()

    async def _run(self) -> None:
        try:
            with self._scope, inherit(None if math.isinf(self._when) else self._when):
                async with self._generator.stream(self._prompt) as pieces:
                    try:
                        await self._pass_on(pieces)
                    except Exception as error:
                        self._error = error  # what went wrong; leaving may go wrong as well, and must not hide it
                        raise
        except (Exception, BaseExceptionGroup) as error:
            # Where the reader has left, nobody asks.
            self._error = self._error or error
        finally:
            self._ended.set()
            if self._arrived is not None:
                self._arrived.set()

    async def _pass_on(self, pieces: AsyncIterator[Piece]) -> None:
        async with closing(pieces):
            async for piece in pieces:
                await self._put(self._checked(piece))

    async def _put(self, piece: Piece) -> None:
        """Pass a piece to the reader; wait while too many are unread."""
        if piece == "":
            return
        self._pieces.append(piece)
        if self._arrived is not None:
            self._arrived.set()
        while len(self._pieces) >= AHEAD:
            self._room = anyio.Event()
            await self._room.wait()

    def _checked(self, piece: object) -> Piece:
        text = piece.text if isinstance(piece, Generation) else piece
        if not isinstance(text, str):
            kind = type(text).__name__
            raise GenerationError(
                f"the generator {self.name} sent {kind}, not text", dependency=self.name, stage="generate"
            )
        if isinstance(piece, Generation) and says_nothing(piece):
            error = GenerationError(
                f"the generator {self.name} gave no text (finish_reason {piece.finish_reason})",
                dependency=self.name,
                stage="generate",
            )
            error.model = piece.model
            if piece.usage.prompt_tokens is not None:
                error.used_tokens = (piece.usage.prompt_tokens, piece.usage.completion_tokens or 0)
            raise error
        return piece  # type: ignore[return-value]  # a str or a Generation, as was just seen

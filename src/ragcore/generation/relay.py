"""Runs a generator's stream in its own task, so that a reader in any task can wait with a limit and leave at any time.

A user's generator may hold a task group or a cancel scope open around its `yield`. Such a stream must be entered and left in the same task. A scope
that was opened before the stream must also stay open until the stream ends. So a separate task enters, reads and leaves the stream.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import AsyncIterator

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ragcore.generation.source import Piece, Source, checked, failure
from ragcore.lifecycle.bound import expires_at, inherit
from ragcore.lifecycle.closing import closing
from ragcore.lifecycle.owner import Owner, cleaning_up
from ragcore.protocols import Generator
from ragcore.resilience.patience import patience_in_force
from ragcore.types import Prompt

__all__ = ["Relay"]

# The largest number of unread pieces: enough to avoid a task switch for each piece, and few enough for back-pressure.
AHEAD = 16


class Relay(Source):
    """One stream of a generator, in its own task.

    Invariant: one task enters, reads and leaves the generator. If it still runs when `aclose` is called, it is cancelled. At most `AHEAD` pieces are unread.
    `_ended` is set when the task has finished and only then, so a reader that waits for it can't wait forever.

    Args:
        owner: the owner of the task group in which the task runs.
        name: the generator's name, for errors.
        first_within: largest time to the first piece in seconds, without the time in ragcore's own queues.
        place_within: largest time until the request gets a place, in seconds.
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
        super().__init__(generator, prompt, name=name, first_within=first_within, place_within=place_within)
        self._generator = generator
        self._prompt = prompt
        self._when = expires_at()
        self._scope = anyio.CancelScope()
        self._pieces: list[Piece] = []
        self._arrived: anyio.Event | None = None
        self._room: anyio.Event | None = None
        self._left = False
        self._ended = anyio.Event()
        self._error: BaseException | None = None
        # Use the reader's context, so that logs and traces belong to the call. Only the `Patience` is a new one, because it limits this stream alone.
        context = contextvars.copy_context()
        context.run(patience_in_force.set, self._patience)
        owner.spawn(self._run, name=f"stream of {name}", context=context)

    async def __anext__(self) -> Piece:
        """Return the next piece. Accumulated text is joined, so a slow reader gets fewer, longer pieces."""
        while not self._pieces:
            if self._left or self._ended.is_set():
                await self._ended.wait()
                return self._end()
            # A new event for each wait, created in the same step as the check above, so that no piece arrives unnoticed in between.
            self._arrived = anyio.Event()
            await self._arrived.wait()
        await checkpoint_if_cancelled()
        pieces = self._pieces
        text = ""
        while pieces and isinstance(pieces[0], str):
            text += pieces.pop(0)  # type: ignore[operator]  # the loop's condition has checked it
        piece = text or pieces.pop(0)
        if self._room is not None:
            self._room.set()
        return piece

    def _end(self) -> Piece:
        if self._error is None:
            raise StopAsyncIteration
        ours = failure(self._error, self.name)
        self._operation.failed(ours)
        raise ours

    async def _leave(self) -> None:
        """Leave the stream and cancel its task. A task that needs longer than a clean-up may take ends later, in the owner's task group."""
        # Cancel the scope first: a piece that the task added after `clear` would never be read.
        self._scope.cancel()
        self._left = True
        self._pieces.clear()
        if not self._ended.is_set():
            with cleaning_up():
                await self._ended.wait()

    async def _run(self) -> None:
        try:
            with self._scope, inherit(None if math.isinf(self._when) else self._when), self._operation.active():
                async with self._generator.stream(self._prompt) as pieces:
                    try:
                        await self._pass_on(pieces)
                    except Exception as error:
                        self._error = error  # leaving the stream may fail too, and must not hide this error
                        raise
        except (Exception, BaseExceptionGroup) as error:
            # If the reader has left, no one reads this error.
            self._error = self._error or error
        finally:
            self._ended.set()
            if self._arrived is not None:
                self._arrived.set()

    async def _pass_on(self, pieces: AsyncIterator[Piece]) -> None:
        async with closing(pieces):
            async for piece in pieces:
                await self._put(checked(piece, self.name))

    async def _put(self, piece: Piece) -> None:
        """Pass a piece to the reader; wait while too many are unread."""
        if piece == "":
            return
        if self._operation.observed:
            self._saw(piece)
        self._pieces.append(piece)
        if self._arrived is not None:
            self._arrived.set()
        while len(self._pieces) >= AHEAD:
            self._room = anyio.Event()
            await self._room.wait()

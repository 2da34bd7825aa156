"""A generator's stream, run in a task of its own, so that whoever reads it may wait for a limited time, in any task, and leave.

A generator of the user's may hold a task group or a cancel scope open around its `yield`. Such a stream must be entered and left in one
task, and no scope of ours may be opened around its entering and closed before its end. So it is entered, read and left here.
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

# Pieces that may wait for the reader: enough to spare a switch of tasks for each, few enough to be back-pressure.
AHEAD = 16


class Relay(Source):
    """One stream of a generator, in a task of its own.

    Invariant: the generator is entered, read and left by one task, whose scope is cancelled by `aclose` at the latest. At most `AHEAD` pieces are
    unread; `_ended` is set exactly when that task does nothing any more, so a reader that waits for it can't wait for ever.

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
        super().__init__(name, first_within=first_within, place_within=place_within)
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
        # The reader's context, so that logs and traces say whose answer this is; but silence is measured by this stream's own patience.
        context = contextvars.copy_context()
        context.run(patience_in_force.set, self._patience)
        owner.spawn(self._run, name=f"stream of {name}", context=context)

    async def __anext__(self) -> Piece:
        """Return the next piece. Text that has accumulated is joined, so a slow reader gets fewer, longer pieces."""
        while not self._pieces:
            if self._left or self._ended.is_set():
                await self._ended.wait()
                return self._end()
            # Made anew for each wait, in the same step as the look above: an event that was set before would be missed by nobody.
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
        raise failure(self._error, self.name)

    async def aclose(self) -> None:
        """Leave the stream: what still runs is cancelled; what isn't gone soon ends in the owner task."""
        # First the scope: a piece that the task puts in meanwhile would be unread for ever.
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
                await self._put(checked(piece, self.name))

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

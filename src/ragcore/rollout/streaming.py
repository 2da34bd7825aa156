"""The stream of a rollout. The side that delivers the first piece gives the whole answer."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Self

from ragcore.client.stream import AnswerStream
from ragcore.errors import NotOpen, RagcoreError
from ragcore.lifecycle.owner import cleaning_up
from ragcore.types import Answer, Done, Retrieved, StreamEvent

__all__ = ["First", "RolloutStream", "first_piece"]

logger: logging.Logger = logging.getLogger("ragcore.rollout")


@dataclass(slots=True)
class First:
    """A stream of one side that has delivered its first piece.

    Attributes:
        manager: the context manager of the stream.
        stream: the stream.
        events: the events up to the first piece.
    """

    manager: AbstractAsyncContextManager[AnswerStream]
    stream: AnswerStream
    events: list[StreamEvent] = field(default_factory=list)

    async def close(self) -> None:
        """Leave the stream. Returns within the time of a clean-up."""
        with cleaning_up():
            try:
                await self.manager.__aexit__(None, None, None)
            except Exception:
                logger.exception("closing a stream of the rollout failed")


async def first_piece(manager: AbstractAsyncContextManager[AnswerStream]) -> First:
    """Enter a stream, and read up to the first piece of the answer. If that fails or is cancelled, leave the stream."""
    found = First(manager, await manager.__aenter__())
    try:
        async for event in found.stream:
            found.events.append(event)
            if not isinstance(event, Retrieved):
                break
    except BaseException:
        await found.close()
        raise
    return found


class RolloutStream:
    """An async iterator of `Retrieved`, then `Delta`s, then `Done`, like `AnswerStream`. `Rollout.stream` makes it.

    Attributes:
        done: the whole answer; None before the end.
        failed: whether the stream broke.
    """

    def __init__(self, first: First) -> None:
        self._stream = first.stream
        self._events = list(reversed(first.events))
        self.done: Answer | None = None
        self.failed = False

    @property
    def call_id(self) -> str:
        """The id of the call in the client of the side that answers."""
        return self._stream.call_id

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamEvent:
        try:
            event = self._events.pop() if self._events else await anext(self._stream)
        except (StopAsyncIteration, NotOpen):
            raise
        except RagcoreError:
            self.failed = True
            raise
        if isinstance(event, Done):
            self.done = event.answer
        return event

    async def answer(self) -> Answer:
        """Read the rest of the stream, and return the whole answer.

        Raises:
            NotOpen: the stream ended without an answer.
            RagcoreError: the side failed during the answer.
        """
        async for _ in self:
            pass
        if self.done is None:
            raise NotOpen("the stream has ended without an answer", stage="generate")
        return self.done

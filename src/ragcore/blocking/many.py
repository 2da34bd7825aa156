"""The answers to many questions, without `await`."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from ragcore.blocking.loop import ThreadDeadline, background
from ragcore.client import many
from ragcore.types import Asked, AskProgress

__all__ = ["Answers", "Feeder"]


class Feeder:
    """Reads questions in the calling thread, and sends them to the background loop: a slow iterable must not block other calls.

    Args:
        questions: the questions.
        ahead: the largest number of questions that have no result yet.
    """

    def __init__(self, questions: Iterable[str], *, ahead: int) -> None:
        self._questions = iter(questions)
        self._ahead = self._room = ahead
        self._send: MemoryObjectSendStream[str] | None = None
        self._ended = False
        self._error: Exception | None = None

    @asynccontextmanager
    async def feeding(
        self, ask_many: Callable[[AsyncIterable[str]], AbstractAsyncContextManager[many.Answers]]
    ) -> AsyncIterator[many.Answers]:
        """Enter the block of `ask_many`, with the questions that this object sends. Runs on the background loop."""
        self._send, receive = anyio.create_memory_object_stream[str](self._ahead)
        with self._send, receive:
            async with ask_many(receive) as answers:
                yield answers

    def read(self) -> list[str]:
        """Read as many questions as there is room for."""
        found: list[str] = []
        while self._room and not self._ended:
            try:
                found.append(next(self._questions))
            except StopIteration:
                self._ended = True
            except Exception as error:  # the user's own; the questions before it are still answered
                self._error, self._ended = error, True
            else:
                self._room -= 1
        return found

    async def send(self, questions: list[str]) -> None:
        """Pass questions on. Runs on the background loop."""
        assert self._send is not None
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the results have ended
            for question in questions:
                await self._send.send(question)
        if self._ended:
            self._send.close()

    def returned(self) -> None:
        """Make room for another question: a result was returned."""
        self._room += 1

    def check(self) -> None:
        """Raise the error that ended the questions, if there was one."""
        if self._error is not None:
            raise self._error


class Answers:
    """An iterator of `Asked`. See `ragcore.Answers`. Questions are read in the thread that asks for the next result."""

    def __init__(
        self,
        answers: many.Answers,
        *,
        feeder: Feeder | None,
        seconds: float,
        progress: Callable[[AskProgress], None] | None,
    ) -> None:
        self._answers = answers
        self._feeder = feeder
        self._seconds = seconds
        self._progress = progress

    def __iter__(self) -> Iterator[Asked]:
        return self

    def __next__(self) -> Asked:
        questions = [] if self._feeder is None else self._feeder.read()

        async def step() -> tuple[Asked, AskProgress] | None:
            if self._feeder is not None:
                await self._feeder.send(questions)
            try:
                return await anext(self._answers), self._answers.progress()
            except StopAsyncIteration:
                return None

        found = background.call(step, ThreadDeadline(self._seconds))
        if found is None:
            if self._feeder is not None:
                self._feeder.check()
            raise StopIteration
        asked, progress = found
        if self._feeder is not None:
            self._feeder.returned()
        if self._progress is not None:
            self._progress(progress)
        return asked

    def all(self) -> tuple[Asked, ...]:
        """Read the rest of the results, and return them in the order of the questions."""
        return tuple(sorted(self, key=lambda asked: asked.index))

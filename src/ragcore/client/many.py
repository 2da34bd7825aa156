"""The answers to many questions, as they arrive: `RAG.ask_many`."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextvars import copy_context
from typing import Self, TypeAlias

import anyio

from ragcore.errors import DeadlineExceeded, InvalidInput, NotOpen
from ragcore.lifecycle.bound import expires_at
from ragcore.lifecycle.closing import closing
from ragcore.lifecycle.owner import Owner, cleaning_up
from ragcore.resilience.deadline import deadline
from ragcore.types import Answer, Asked, AskProgress

__all__ = ["Answers", "Questions", "check_concurrency", "check_questions"]

Questions: TypeAlias = Iterable[str] | AsyncIterable[str]

MOST_CONCURRENCY = 1_000


class Answers:
    """An async iterator of `Asked`, in the order in which the questions are answered. Made by `RAG.ask_many`.

    The questions are read and asked in a task of the client, not of the reader, so no cancel scope is open between two results. A question is read only when
    a place is free, and its place is free again when its result has been read. So at most `concurrency` questions are under way or wait for the reader.

    Invariant: each question that was read has exactly one result. `_over` is set if and only if nothing runs any longer.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[Answer]],
        questions: Questions,
        *,
        concurrency: int,
        total_timeout: float | None,
        progress: Callable[[AskProgress], None] | None,
    ) -> None:
        self._ask = ask
        self._questions = questions
        self._places = anyio.Semaphore(concurrency)
        self._total = total_timeout
        self._progress = progress
        self._began = 0.0
        self._until = math.inf
        self._scope = anyio.CancelScope()
        self._over = anyio.Event()
        # The stream has no buffer: a result that no reader takes keeps its place, so a slow reader stops the questions.
        self._send, self._receive = anyio.create_memory_object_stream[Asked](0)
        self._read = self._answered = self._failed = 0
        self._error: Exception | None = NotOpen(
            "the client or the results were closed before all questions were answered"
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Asked:
        try:
            asked = await self._receive.receive()
        except anyio.EndOfStream:
            if self._error is not None:
                raise self._error from None
            raise StopAsyncIteration from None
        except anyio.ClosedResourceError:
            raise NotOpen("the results are closed: call ask_many again") from None
        if asked.error is None:
            self._answered += 1
        else:
            self._failed += 1
        if self._progress is not None:
            self._progress(self.progress())
        return asked

    def progress(self) -> AskProgress:
        """Return how many questions were read and answered so far."""
        return AskProgress(self._read, self._answered, self._failed, anyio.current_time() - self._began)

    async def all(self) -> tuple[Asked, ...]:
        """Read the rest of the results, and return them in the order of the questions."""
        return tuple(sorted([asked async for asked in self], key=lambda asked: asked.index))

    async def aclose(self) -> None:
        """Cancel the questions under way, and stop reading questions. Idempotent."""
        self._scope.cancel()
        with cleaning_up():
            await self._over.wait()
        self._receive.close()

    def start(self, owner: Owner) -> None:
        """Begin to read the questions, in a task of `owner`."""
        self._began = anyio.current_time()
        total = math.inf if self._total is None else self._began + self._total
        self._until = min(total, expires_at())
        # The caller's context has the actor of the audit log, and the caller's own variables for logs and traces.
        owner.spawn(self._run, name="asking many questions", context=copy_context())

    async def _run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as group:
                    self._error = await self._ask_each(group.start_soon)
        finally:
            self._send.close()
            self._over.set()

    async def _ask_each(self, start: Callable[..., object]) -> Exception | None:
        """Start each question. Return the error that ended the reading; None if all questions were read."""
        try:
            with anyio.CancelScope(deadline=self._until) as scope:
                async with closing(_each(self._questions)) as questions:
                    while True:
                        await self._places.acquire()
                        try:
                            question = await anext(questions)
                        except StopAsyncIteration:
                            return None
                        start(self._answer, self._read, question)
                        self._read += 1
        except Exception as error:  # the user's own iterable
            return error
        assert scope.cancelled_caught
        elapsed = anyio.current_time() - self._began
        return DeadlineExceeded(
            f"not all questions were asked within {elapsed:.1f} s: {self._read} were",
            budget=elapsed if self._total is None else self._total,
            elapsed=elapsed,
        )

    async def _answer(self, index: int, question: str) -> None:
        try:
            left = self._until - anyio.current_time()
            if left < math.inf:
                with deadline(max(left, 1e-6)):
                    answer = await self._ask(question)
            else:
                answer = await self._ask(question)
            asked = Asked(index, question, answer)
        except Exception as error:  # one question that fails does not end the others
            asked = Asked(index, question, error=error)
        await self._send.send(asked)
        self._places.release()


async def _each(questions: Questions) -> AsyncIterator[str]:
    if isinstance(questions, AsyncIterable):
        async with closing(aiter(questions)) as each:
            async for question in each:
                yield question
        return
    for question in questions:
        yield question


def check_concurrency(concurrency: object, /) -> int:
    """Return the number of questions at once. It must be a whole number from 1 to 1,000."""
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= MOST_CONCURRENCY:
        raise InvalidInput(f"concurrency is {concurrency!r}: it must be a whole number from 1 to {MOST_CONCURRENCY:,}")
    return concurrency


def check_questions(questions: object, /) -> None:
    """Refuse one text instead of several questions: its characters would become questions."""
    if isinstance(questions, str | bytes) or not isinstance(questions, Iterable | AsyncIterable):
        raise InvalidInput(
            f"questions must be an iterable of questions, not one {type(questions).__name__}: put it into a list"
        )

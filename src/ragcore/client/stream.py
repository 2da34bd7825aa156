"""The stream of an answer: first the passages, then the text in pieces, then the whole answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import anyio

from ragcore.errors import GenerationError, InvalidInput, NotOpen, RagcoreError
from ragcore.lifecycle.closing import close_quietly
from ragcore.lifecycle.owner import CLEAN_UP, Owner, cleaning_up
from ragcore.types import Answer, Delta, Done, Generation, Prompt, Retrieval, Retrieved, StreamEvent

if TYPE_CHECKING:
    from ragcore.operating.calls import Call
    from ragcore.protocols import Generator

__all__ = ["AnswerStream"]


class AnswerStream:
    """An async iterator of `Retrieved`, then `Delta`s, then `Done`. Made by `RAG.stream`.

    A stream may be entered, read and left in different tasks: no cancel scope is open between two events. The time that the reader takes between events
    counts towards the deadline. A stream that is no longer read is closed at its deadline. An error in the middle of a stream has `.partial_text`.

    Invariant: `_left` is set if and only if the call is finished and the stream reads nothing further from the model. The code that sets it also closes
    `_events` and `_stack`; closing twice does nothing. While a step is under way, only that step touches `_events` and `_stack`.
    """

    def __init__(
        self,
        *,
        call: Call,
        owner: Owner,
        retrieval: Retrieval,
        generator: Generator,
        prompt: Prompt | None,
        finish: Callable[[Call, Retrieval, Prompt | None, Generation | None], Answer],
    ) -> None:
        self._call = call
        self._retrieval = retrieval
        self._generator = generator
        self._prompt = prompt
        self._finish = finish
        self._stack = AsyncExitStack()
        self._pieces: AsyncIterator[str | Generation] | None = None
        self._events = self._run()
        self._text = ""
        self._answer: Answer | None = None
        self._left = anyio.Event()
        # A task of the client, not of the reader, closes the stream: a reader that forgets the stream never closes it.
        call.timed_by_owner = True
        owner.spawn(self._close_at_deadline, name="abandoned stream")

    @property
    def call_id(self) -> str:
        """The id of the call. The answer and the errors have the same id."""
        return self._call.id

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamEvent:
        if self._call.stepping:
            raise InvalidInput("another task is reading this stream: a stream has one reader", stage="generate")
        if self._left.is_set() and self._answer is None:
            raise self._ended()
        try:
            # The deadline's scope is open for this step only, and is closed before the event is returned.
            with self._call:
                return await self._events.__anext__()
        except StopAsyncIteration:
            raise
        except BaseException as error:  # also a cancellation: the stream can't continue in the middle of a piece
            await self._failed(error)
            raise

    async def answer(self) -> Answer:
        """Read the rest of the stream, and return the whole answer.

        Raises:
            GenerationError, DeadlineExceeded, …: the stream failed; `.partial_text` is the text until then.
        """
        async for _ in self:
            pass
        if self._answer is None:
            raise self._ended()
        return self._answer

    async def aclose(self) -> None:
        """Abandon the stream: cancel the step under way, and close the request to the model."""
        self._left.set()
        self._call.finish("cancelled" if self._answer is None else "ok")
        await self._abandon()

    async def _run(self) -> AsyncGenerator[StreamEvent, None]:
        yield Retrieved(self._retrieval)
        generation = None
        if self._prompt is not None:
            self._call.on_stage("generate", None)
            began = anyio.current_time()
            self._pieces = await self._stack.enter_async_context(self._generator.stream(self._prompt))
            async for piece in self._pieces:
                self._call.saw(piece)
                if isinstance(piece, Generation):
                    generation = piece
                    break
                self._text += piece
                yield Delta(piece)
            if generation is None:
                raise GenerationError("the generator's stream ended without a result", stage="generate")
            # Close before the answer is returned: a slow reader must not hold the connection and the place in the bulkhead.
            await self._close()
            self._call.on_stage("generate", anyio.current_time() - began)
        self._answer = self._finish(self._call, self._retrieval, self._prompt, generation)
        if not self._text:
            yield Delta(self._answer.text)
        elif not self._answer.found:  # the model wrote a reason before its marker for "not found"
            yield Delta(f"\n\n{self._answer.text}")
        # End the call before the last event: a reader may stop at that event and never iterate further.
        self._left.set()
        self._call.finish("degraded" if self._call.findings.degraded else "ok")
        yield Done(self._answer)

    async def _failed(self, error: BaseException) -> None:
        if isinstance(error, RagcoreError):
            error.partial_text = error.partial_text or self._text
        # The call ends before the clean-up: that may be slow, and a second cancellation may interrupt it.
        self._call.failed(error)
        self._left.set()
        await self._abandon()

    async def _close(self) -> None:
        # Replace the stack first: two tasks that close at once must not close the generator twice.
        stack, self._stack = self._stack, AsyncExitStack()
        with cleaning_up():
            await close_quietly(stack)

    async def _abandon(self) -> None:
        if self._call.stepping:  # another task waits for an event: cancel that task, which then cleans up
            self._call.cancel("the stream was closed while another task was reading it")
            return
        with cleaning_up():
            await close_quietly(self._events)
        await self._close()

    async def _close_at_deadline(self) -> None:
        with anyio.move_on_after(self._call.remaining()):
            await self._left.wait()
            return
        if self._call.stepping:  # a reader waits: `expire` or the reader's own scope ends its step, which cleans up
            self._call.expire()
            with anyio.move_on_after(2 * CLEAN_UP):
                await self._left.wait()
                return
        self._left.set()
        self._call.finish("abandoned")
        await self._abandon()

    def _ended(self) -> RagcoreError:
        if self._call.remaining() == 0:
            error: RagcoreError = self._call.expired()
        else:
            error = NotOpen("the stream is closed: enter a new one", stage="generate")
        error.partial_text = self._text
        return error

"""One stream of one generator, read piece by piece, with a time limit for its first piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Self, TypeAlias

import anyio

from ragcore.errors import GenerationError, RagcoreError
from ragcore.generation.ending import says_nothing
from ragcore.generation.extractive import ExtractiveGenerator
from ragcore.lifecycle.operations import UNOBSERVED, begin
from ragcore.protocols import Generator
from ragcore.resilience.patience import Patience
from ragcore.types import Generation, Prompt

__all__ = ["Piece", "Source", "checked", "failure", "runs_in_any_task"]

Piece: TypeAlias = str | Generation


class Source(ABC):
    """One stream of a generator. Iterate over it, then `aclose` it.

    Args:
        generator, prompt: the generator, and the prompt that it answers.
        name: the generator's name in errors.
        first_within: seconds until the first token. Time in ragcore's own queues does not count.
        place_within: seconds until the request has a place.
    """

    def __init__(
        self, generator: Generator, prompt: Prompt, *, name: str, first_within: float, place_within: float
    ) -> None:
        self.name = name
        # Quotation asks no model, so it is no operation.
        self._operation = (
            UNOBSERVED
            if isinstance(generator, ExtractiveGenerator)
            else begin("generate", component=generator, model=name, prompt=prompt)
        )
        self._began = anyio.current_time()
        self._patience = Patience(first_within, place_by=anyio.current_time() + place_within)

    async def first(self) -> Piece:
        """Return the first piece.

        Raises:
            GenerationError: it did not arrive in time, or the stream ended without one.
        """
        with self._patience as patience:  # only for the first piece: no scope may be open between two pieces
            try:
                return await self.__anext__()
            except StopAsyncIteration:
                error = GenerationError(f"{self.name} ended without a result", dependency=self.name, stage="generate")
                self._operation.failed(error)
                raise error from None
        late = GenerationError(
            f"{self.name} did not begin to answer within {patience.seconds:.1f} s",
            dependency=self.name,
            stage="generate",
        )
        self._operation.failed(late)
        raise late

    def __aiter__(self) -> Self:
        return self

    @abstractmethod
    def __anext__(self) -> Awaitable[Piece]:
        """Return the next piece."""

    async def aclose(self) -> None:
        """Leave the stream and cancel its request."""
        try:
            await self._leave()
        finally:
            operation = self._operation
            if "generation" not in operation.found:
                operation.cut_off()
            operation.end()

    @abstractmethod
    async def _leave(self) -> None:
        """Leave the stream and cancel its request."""

    def _saw(self, piece: Piece) -> None:
        """Note the time of the first piece, and the result."""
        operation = self._operation
        if "first" not in operation.found:
            operation.note(first=anyio.current_time() - self._began)
        if isinstance(piece, Generation):
            operation.note(generation=piece)


def checked(piece: object, name: str) -> Piece:
    """Return the piece if it is valid.

    Raises:
        GenerationError: it is neither text nor a `Generation`, or the generation has no text.
    """
    if type(piece) is str:
        return piece
    text = piece.text if isinstance(piece, Generation) else piece
    if not isinstance(text, str):
        kind = type(text).__name__
        raise GenerationError(f"the generator {name} sent {kind}, not text", dependency=name, stage="generate")
    if isinstance(piece, Generation) and says_nothing(piece):
        error = GenerationError(
            f"the generator {name} gave no text (finish_reason {piece.finish_reason})",
            dependency=name,
            stage="generate",
        )
        error.model = piece.model
        if piece.usage.prompt_tokens is not None:
            error.used_tokens = (piece.usage.prompt_tokens, piece.usage.completion_tokens or 0)
        raise error
    return piece  # type: ignore[return-value]  # checked above: a str or a Generation


def failure(error: BaseException, name: str) -> RagcoreError:
    """Return a generator's error as a `RagcoreError`; an error of another class becomes the cause of a `GenerationError`."""
    if isinstance(error, RagcoreError):
        return error
    ours = GenerationError(f"the generator {name} raised {type(error).__name__}", dependency=name, stage="generate")
    ours.__cause__ = error
    return ours


def runs_in_any_task(generator: Generator, /) -> bool:
    """Whether a generator's streams may be entered, read and left in different tasks.

    Its class declares it with `in_any_task = True`, if it holds neither a cancel scope nor a task group open across a `yield`. A subclass that
    overrides `stream` must declare it again.
    """
    for kind in type(generator).__mro__:
        if "in_any_task" in vars(kind):
            return bool(vars(kind)["in_any_task"])
        if "stream" in vars(kind):
            break
    return False

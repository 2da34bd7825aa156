"""One generator after the other, until one answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace

import anyio

from ragcore.errors import ConfigurationError, GenerationError, InvalidInput, Overloaded, RagcoreError
from ragcore.events import emit
from ragcore.generation.streams import collect
from ragcore.protocols import Generator
from ragcore.resilience.deadline import expires_at, inherit
from ragcore.resilience.owner import CLEAN_UP, Part, Parts
from ragcore.tokens import estimate_tokens
from ragcore.types import Degradation, Generation, Prompt

__all__ = ["FallbackGenerator", "name_of"]

# Of the time that is left, what a generator that is not the last may take to its first word.
SHARE = 0.4
MOST_SECONDS = 10.0


class FallbackGenerator(Part):
    """Asks the first generator, and the next where one fails before its first word.

    A generator that is not the last gets at most min(10 s, 40 % of what is left) to its first word, so that there is time for the next. What
    failed stands in the answer's `degraded`. `Overloaded` and `InvalidInput` come out at once: another model would not help.

    Args:
        generators: in the order to ask them; an `ExtractiveGenerator` at the end always answers.
    """

    def __init__(self, generators: Sequence[Generator], /) -> None:
        if not generators:
            raise ConfigurationError("FallbackGenerator needs at least one generator")
        self.generators = tuple(generators)
        self._parts = Parts()

    def count_tokens(self, text: str, /) -> int:
        """As the first generator counts that can."""
        for generator in self.generators:
            count = getattr(generator, "count_tokens", None)
            if count is not None:
                return int(count(text))
        return estimate_tokens(text)

    async def generate(self, prompt: Prompt, /) -> Generation:
        """The first answer."""
        return await collect(self.stream(prompt))

    @asynccontextmanager
    async def stream(self, prompt: Prompt, /) -> AsyncIterator[AsyncIterator[str | Generation]]:
        """The pieces of the first generator that gets as far as a first piece."""
        self._check_open()
        failed: list[Degradation] = []
        for generator in self.generators[:-1]:
            stack = AsyncExitStack()
            try:
                pieces, first = await _first_piece(stack, generator, prompt)
            except (Overloaded, InvalidInput):
                await _close(stack)
                raise
            except Exception as error:
                await _close(stack)
                failed.append(_degradation(generator, self.generators[len(failed) + 1], error))
                continue
            except BaseException:
                await _close(stack)
                raise
            try:
                async with aclosing(_resumed(first, pieces, failed)) as resumed:
                    yield resumed
            finally:
                await _close(stack)
            return
        async with self.generators[-1].stream(prompt) as pieces, aclosing(_resumed(None, pieces, failed)) as resumed:
            yield resumed

    async def _open(self) -> None:
        for generator in self.generators:
            await self._parts.start(generator)

    async def _close(self) -> None:
        await self._parts.aclose()


async def _first_piece(
    stack: AsyncExitStack, generator: Generator, prompt: Prompt
) -> tuple[AsyncIterator[str | Generation], str | Generation]:
    """Open the stream and wait for its first piece, within its share of the time."""
    now, when = anyio.current_time(), expires_at()
    limit = min(MOST_SECONDS, SHARE * (when - now))
    with anyio.CancelScope(deadline=now + limit), inherit(None if when == float("inf") else when):
        pieces = await stack.enter_async_context(generator.stream(prompt))
        async for piece in pieces:
            return pieces, piece
        raise GenerationError(
            f"{name_of(generator)} ended without a result", dependency=name_of(generator), stage="generate"
        )
    raise GenerationError(
        f"{name_of(generator)} said nothing within {limit:.1f} s", dependency=name_of(generator), stage="generate"
    )


async def _resumed(
    first: str | Generation | None, pieces: AsyncIterator[str | Generation], failed: Sequence[Degradation]
) -> AsyncGenerator[str | Generation, None]:
    if first is not None:
        yield _marked(first, failed)
    async for piece in pieces:
        yield _marked(piece, failed)


def _marked(piece: str | Generation, failed: Sequence[Degradation]) -> str | Generation:
    return replace(piece, degraded=(*failed, *piece.degraded)) if failed and isinstance(piece, Generation) else piece


def _degradation(generator: Generator, following: Generator, error: Exception) -> Degradation:
    emit("generator.failed", name_of(generator), error=type(error).__name__)
    reason = str(error) if isinstance(error, RagcoreError) else f"{name_of(generator)} raised {type(error).__name__}"
    return Degradation("generate", reason, name_of(following))


def name_of(generator: Generator, /) -> str:
    """What to call a generator: its model, or its class."""
    return str(getattr(generator, "model", None) or type(generator).__name__)


async def _close(stack: AsyncExitStack) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(CLEAN_UP):
        await stack.aclose()

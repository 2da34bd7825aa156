"""One generator after the other, until one answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from ragcore.errors import ConfigurationError, InvalidInput, Overloaded, RagcoreError
from ragcore.events import emit
from ragcore.generation.relay import Relay
from ragcore.generation.streams import collect
from ragcore.protocols import Generator
from ragcore.resilience.deadline import share
from ragcore.resilience.part import Part, Parts
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
        owner = self._check_open()
        failed: list[str] = []
        for generator in self.generators[:-1]:
            relay = Relay(owner, generator, prompt, name=name_of(generator))
            try:
                first = await self._first(relay, failed)
                if first is not None:
                    async with aclosing(_resumed(first, relay, failed)) as resumed:
                        yield resumed
                    return
            finally:
                await relay.aclose()
        relay = Relay(owner, self.generators[-1], prompt, name=name_of(self.generators[-1]))
        try:
            async with aclosing(_resumed(None, relay, failed)) as resumed:
                yield resumed
        finally:
            await relay.aclose()

    @staticmethod
    async def _first(relay: Relay, failed: list[str]) -> str | Generation | None:
        """A generator's first piece, within its share of the time; None if it failed, which is noted."""
        try:
            return await relay.first(share(SHARE, most=MOST_SECONDS))
        except (Overloaded, InvalidInput):
            raise
        except RagcoreError as error:
            emit("generator.failed", relay.name, error=type(error).__name__)
            failed.append(str(error))
            return None

    async def _open(self) -> None:
        for generator in self.generators:
            await self._parts.start(generator)

    async def _close(self) -> None:
        await self._parts.aclose()


async def _resumed(
    first: str | Generation | None, relay: Relay, failed: Sequence[str]
) -> AsyncGenerator[str | Generation, None]:
    """The pieces of the generator that answers; its `Generation` says which failed before it, and why."""
    degraded = tuple(Degradation("generate", reason, relay.name) for reason in failed)

    def marked(piece: str | Generation) -> str | Generation:
        return (
            replace(piece, degraded=(*degraded, *piece.degraded))
            if degraded and isinstance(piece, Generation)
            else piece
        )

    if first is not None:
        yield marked(first)
    async for piece in relay:
        yield marked(piece)


def name_of(generator: Generator, /) -> str:
    """What to call a generator: its model, or its class."""
    return str(getattr(generator, "model", None) or type(generator).__name__)

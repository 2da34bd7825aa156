"""Tries generators in order until one answers."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self

from ragcore.compat.ability import offers
from ragcore.errors import ConfigurationError, GenerationError, InvalidInput, Overloaded, RagcoreError
from ragcore.events import emit
from ragcore.generation.direct import Direct
from ragcore.generation.extractive import ExtractiveGenerator
from ragcore.generation.relay import Relay
from ragcore.generation.source import Piece, Source, runs_in_any_task
from ragcore.generation.streams import collect
from ragcore.lifecycle.owner import Owner
from ragcore.lifecycle.part import Part, Parts
from ragcore.protocols import Counting, Generator, Named
from ragcore.resilience.deadline import share
from ragcore.resilience.policy import policy_of
from ragcore.text.tokens import estimate_tokens
from ragcore.types import Degradation, Generation, Prompt, Usage

__all__ = ["FallbackGenerator", "name_of"]

# The share of the remaining time within which a generator must send its first token. The last generator has no such limit.
SHARE = 0.4
# Seconds to the first token, for a generator without a policy.
FIRST_TIMEOUT = 10.0


class FallbackGenerator(Part):
    """Asks its generators in order. If one fails before its first token, the next is asked.

    Each generator except the last must send its first token within 40 % of the remaining time and within its policy's `first_timeout`, so that the
    next one has time. `describe` returns these limits. Time in ragcore's own queues does not count. If another model follows, the generator
    must also get a place within 40 % of the remaining time. The answer's `degraded` lists the generators that failed. `InvalidInput` is raised at once.

    A generator that refuses the call because it is full counts as failed. If the last model is full, `Overloaded` is raised instead of quoting.

    Args:
        generators: the generators in the order in which they are asked. An `ExtractiveGenerator` at the end needs no model and
            always returns a result, perhaps "not found".
        first_timeout: seconds to the first token, for generators without a policy.
        quote_when_overloaded: whether to quote if the model before the quotation is full.
    """

    generators: tuple[Generator, ...]

    # This class does not set `in_any_task`. With it, an outer FallbackGenerator would read this one inside the cancel scope that limits the time to the
    # first piece. The relays that are made here would then treat the end of that scope as their deadline.

    def __init__(
        self,
        generators: Sequence[Generator],
        /,
        *,
        first_timeout: float = FIRST_TIMEOUT,
        quote_when_overloaded: bool = False,
    ) -> None:
        if not generators:
            raise ConfigurationError("FallbackGenerator needs at least one generator")
        if not first_timeout > 0:
            raise ConfigurationError(f"first_timeout is {first_timeout!r}: it must be positive")
        self.generators = tuple(generators)
        self._count = next((one.count_tokens for one in self.generators if offers(one, Counting)), estimate_tokens)
        self.first_timeout = first_timeout
        self.quote_when_overloaded = quote_when_overloaded
        self._parts = Parts()

    def first_timeout_of(self, generator: Generator) -> float | None:
        """Return the largest time to the first token in seconds; None for the last generator, which has no such limit here."""
        if generator is self.generators[-1]:
            return None
        policy = policy_of(generator)
        return self.first_timeout if policy is None else policy.first_timeout

    def describe(self) -> list[dict[str, Any]]:
        """Return the limits in force for each generator as JSON-ready dicts: timeouts in seconds, concurrent and waiting calls."""
        described = []
        for generator in self.generators:
            policy = policy_of(generator)
            bulkhead = None if policy is None else policy.bulkhead
            first = self.first_timeout_of(generator)
            described.append(
                {
                    "name": name_of(generator),
                    "first_timeout": first,
                    "first_share": None if first is None else SHARE,
                    "idle_timeout": None if policy is None else policy.idle_timeout,
                    "limit": None if bulkhead is None else bulkhead.limit,
                    "queue": None if bulkhead is None else bulkhead.queue,
                }
            )
        return described

    def count_tokens(self, text: str, /) -> int:
        """Count tokens as the first generator that has `count_tokens` does."""
        return self._count(text)

    async def generate(self, prompt: Prompt, /) -> Generation:
        """Return the answer of the first generator that succeeds."""
        return await collect(self.stream(prompt))

    @asynccontextmanager
    async def stream(self, prompt: Prompt, /) -> AsyncIterator[AsyncIterator[str | Generation]]:
        """Stream the pieces of the first generator that sends a first piece."""
        owner = self._check_open()
        failed: list[RagcoreError] = []
        for generator in self.generators[:-1]:
            self._check_room(generator, failed)
            part = share(SHARE, most=math.inf)
            source = self._source(
                owner,
                generator,
                prompt,
                first_within=min(part, self.first_timeout_of(generator) or math.inf),
                # Another model needs time; quotation doesn't.
                place_within=part if self._model_follows(generator) else math.inf,
            )
            try:
                first = await self._first(source, failed)
                if first is not None:
                    yield _Resumed(first, source, failed)
                    return
            finally:
                await source.aclose()
        self._check_room(self.generators[-1], failed)
        source = self._source(owner, self.generators[-1], prompt)
        try:
            yield _Resumed(None, source, failed)
        finally:
            await source.aclose()

    def _source(
        self,
        owner: Owner,
        generator: Generator,
        prompt: Prompt,
        *,
        first_within: float = math.inf,
        place_within: float = math.inf,
    ) -> Source:
        """Return a generator's stream. It runs in its own task, unless the generator is known not to need one."""
        name = name_of(generator)
        if runs_in_any_task(generator):
            return Direct(generator, prompt, name=name, first_within=first_within, place_within=place_within)
        return Relay(owner, generator, prompt, name=name, first_within=first_within, place_within=place_within)

    def _model_follows(self, generator: Generator) -> bool:
        following = self.generators[self.generators.index(generator) + 1 :]
        return any(not isinstance(one, ExtractiveGenerator) for one in following)

    def _check_room(self, generator: Generator, failed: Sequence[RagcoreError]) -> None:
        """Raise `Overloaded` if quotation is next and the model before it was full."""
        if (
            failed
            and isinstance(failed[-1], Overloaded)
            and isinstance(generator, ExtractiveGenerator)
            and not self.quote_when_overloaded
        ):
            raise failed[-1]

    @staticmethod
    async def _first(source: Source, failed: list[RagcoreError]) -> str | Generation | None:
        """Return a generator's first piece, within its share of the time. On failure, add the error to `failed` and return None."""
        try:
            return await source.first()
        except InvalidInput:
            raise
        except RagcoreError as error:
            emit("generator.failed", source.name, error=type(error).__name__)
            failed.append(error)
            return None

    async def _open(self) -> None:
        for generator in self.generators:
            await self._parts.start(generator)

    async def _close(self) -> None:
        await self._parts.aclose()


class _Resumed:
    """The pieces of the generator that answers. Its `Generation` names the generators that failed before it, with their errors.

    It is an iterator, not an async generator, which would cost time for each piece.
    """

    def __init__(self, first: Piece | None, source: Source, failed: Sequence[RagcoreError]) -> None:
        self._first = first
        self._source = source
        self._degraded = tuple(
            Degradation("generate", str(error), source.name, error=type(error).__name__) for error in failed
        )
        self._spent = tuple(
            (error.model, Usage(prompt_tokens=error.used_tokens[0], completion_tokens=error.used_tokens[1]))
            for error in failed
            if isinstance(error, GenerationError) and error.used_tokens is not None
        )

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[Piece]:
        return self._marked() if self._degraded or self._first is not None else self._source.__anext__()

    async def _marked(self) -> Piece:
        piece, self._first = self._first, None
        if piece is None:
            piece = await self._source.__anext__()
        if not self._degraded or not isinstance(piece, Generation):
            return piece
        return replace(piece, degraded=(*self._degraded, *piece.degraded), spent=(*self._spent, *piece.spent))


def name_of(generator: Generator, /) -> str:
    """Return a generator's name: its model, or its class."""
    return str((offers(generator, Named) and generator.model) or type(generator).__name__)

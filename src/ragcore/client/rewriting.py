"""Rewrites follow-up questions for the search: "And for my family?" alone finds the wrong passages."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

import anyio

from ragcore.client.charging import Charging
from ragcore.client.components import Generators
from ragcore.errors import DeadlineExceeded, GenerationError, Overloaded, RagcoreError
from ragcore.events import emit
from ragcore.generation.extractive import ExtractiveGenerator
from ragcore.generation.prompt import build_rewriting, render
from ragcore.generation.streams import collect
from ragcore.lifecycle.stages import Stopwatch
from ragcore.operating.calls import Call
from ragcore.operating.used import CHARACTERS_A_TOKEN, spent_by
from ragcore.protocols import Embedder
from ragcore.resilience.deadline import deadline, share
from ragcore.resilience.policy import policy_of
from ragcore.text.follow_up import context_of
from ragcore.text.tokens import estimate_tokens
from ragcore.types import Degradation, Generation, Prompt, Retrieval, Turn, Usage
from ragcore.types.validation import MAX_QUESTION

__all__ = ["Rewriter", "Rewritten"]

# The model gets REWRITE_SHARE of the remaining time, at most MOST_REWRITE_SECONDS. Embedding, search and answer need the rest.
REWRITE_SHARE = 0.2
MOST_REWRITE_SECONDS = 5.0
# A longer text is not a question, but an answer or an explanation.
MOST_CHARACTERS = 400
QUOTES = "\"'“”„«»`"
# The name of the fallback if the model fails: the words of an earlier question are added to the question.
CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The text to search for, and the tokens and the time that the rewriting used.

    Attributes:
        query: the text.
        degraded: the failure of the model, if it failed.
        usage: the tokens of the model; None if no model was asked.
        seconds: the time that the model took; None if no model was asked.
    """

    query: str
    degraded: tuple[Degradation, ...] = ()
    usage: Usage = Usage()
    seconds: float | None = None

    def reported(self, retrieval: Retrieval) -> Retrieval:
        """Return the result of the search with the failure, the time and the tokens of the rewriting."""
        return replace(
            retrieval,
            degraded=(*self.degraded, *retrieval.degraded),
            timings=replace(retrieval.timings, rewrite=self.seconds),
            usage=replace(self.usage, embedding_tokens=retrieval.usage.embedding_tokens),
        )


class Rewriter:
    """Makes the text to search for from a question and the conversation before it.

    Args:
        how: `Settings.rewrite`.
        generators: the first of them rewrites the question, with "model".
        embedder: its token limit applies to the rewritten question as well.
        charging: counts the tokens of the model at once, because later stages may fail.
    """

    def __init__(
        self, how: str | None, *, generators: Generators, embedder: Embedder | None, charging: Charging
    ) -> None:
        self._how = how
        self._generators = generators
        self._embedder = embedder
        self._charging = charging
        self._first = generators.alone.generators[0]

    async def rewrite(self, call: Call, question: str, history: Sequence[Turn], *, degrade: bool) -> Rewritten:
        """Return the text to search for. It is the question itself if there is no history, or if `Settings.rewrite` is None.

        Raises:
            GenerationError, Overloaded, CircuitOpen: the model failed, and `degrade` is False.
        """
        if self._how is None or not history:
            return Rewritten(question)
        if self._how == CONTEXT or isinstance(self._first, ExtractiveGenerator):
            return Rewritten(self._in_context(question, history))
        watch, counter = Stopwatch(), _Counter(build_rewriting(question, history))
        degraded: tuple[Degradation, ...] = ()
        try:
            with watch.measure("rewrite"):
                query = self._checked(await self._ask(counter))
        except RagcoreError as error:
            if not degrade:
                raise
            emit("generator.failed", self._generators.first_name, error=type(error).__name__)
            query = self._in_context(question, history)
            degraded = (Degradation("rewrite", str(error), CONTEXT, error=type(error).__name__),)
        finally:
            for model, usage in counter.spent(self._generators.first_name):
                self._charging.count(call, usage, model)
        return Rewritten(query, degraded, counter.usage, watch.timings().rewrite)

    async def _ask(self, counter: _Counter) -> Generation:
        """Return the model's text, within its share of the time.

        Raises:
            Overloaded: the model has no free place. Rewriting does not wait for a place, because the answer needs the place more.
            GenerationError: the model failed or did not answer in time.
        """
        policy, name = policy_of(self._first), self._generators.first_name
        bulkhead = None if policy is None else policy.bulkhead
        if bulkhead is not None and (bulkhead.waiting or bulkhead.inside >= bulkhead.limit):
            raise Overloaded(f"{name} has no free place to rewrite the question", dependency=name, stage="rewrite")
        seconds = share(REWRITE_SHARE, most=MOST_REWRITE_SECONDS)
        until = anyio.current_time() + seconds
        try:
            with deadline(max(seconds, 1e-6)):
                return await counter.read(self._generators.strict.stream(counter.prompt))
        except RagcoreError as error:
            counter.failed(error)
            if isinstance(error, DeadlineExceeded) and anyio.current_time() >= until:
                raise _failed(f"{name} did not rewrite the question within {seconds:.1f} s", name) from error
            error.stage = "rewrite"
            raise

    def _checked(self, generation: Generation) -> str:
        """Return the model's question.

        Raises:
            GenerationError: the text is not one question: it is empty, cut off, too long, or has several lines.
        """
        name, text = self._generators.first_name, generation.text.strip().strip(QUOTES).strip()
        if not text or not generation.complete:
            raise _failed(f"{name} wrote no complete question", name)
        if len(text) > MOST_CHARACTERS or len(text.splitlines()) > 1 or not self._fits(text):
            raise _failed(f"{name} wrote {len(text):,} characters instead of one question", name)
        return text

    def _in_context(self, question: str, history: Sequence[Turn]) -> str:
        """Return the question with the words of an earlier question. Words beyond the embedder's token limit are left out."""
        context = context_of(question, history)
        while context and not self._fits(f"{question} {context}"):
            context = context[: len(context) // 2].rpartition(" ")[0]
        return f"{question} {context}" if context else question

    def _fits(self, query: str) -> bool:
        if len(query) > MAX_QUESTION:
            return False
        embedder = self._embedder
        # A token has at least one byte, so a short text need not be counted.
        return (
            embedder is None
            or len(query.encode(errors="replace")) <= embedder.max_tokens
            or embedder.count_tokens(query) <= embedder.max_tokens
        )


class _Counter:
    """Reads the model's text, and counts its tokens, even if the model fails or the call is cancelled."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.usage = Usage()
        self._model = ""
        self._written = 0
        self._reported: tuple[tuple[str, Usage], ...] = ()

    async def read(self, stream: AbstractAsyncContextManager[AsyncIterator[str | Generation]]) -> Generation:
        """Return the whole text."""
        generation = await collect(stream, on_piece=self._saw)
        self._model = generation.model
        self.usage = generation.usage if generation.usage.prompt_tokens is not None else self._estimated()
        self._reported = generation.spent
        return generation

    def failed(self, error: RagcoreError) -> None:
        """Take the tokens that a failed model reported."""
        self._reported = spent_by(error)

    def spent(self, first_name: str) -> tuple[tuple[str, Usage], ...]:
        """Return (model, usage) for each use of a model. Without a report, the use is estimated from the text that arrived."""
        if self.usage != Usage():
            return ((self._model or first_name, self.usage), *self._reported)
        if self._written and not self._reported:
            return ((first_name, self._estimated()),)
        return self._reported

    def _saw(self, piece: str | Generation) -> None:
        if isinstance(piece, str):
            self._written += len(piece)

    def _estimated(self) -> Usage:
        return Usage(
            prompt_tokens=sum(estimate_tokens(message["content"]) for message in render(self.prompt)),
            completion_tokens=math.ceil(self._written / CHARACTERS_A_TOKEN),
        )


def _failed(message: str, name: str) -> GenerationError:
    return GenerationError(message, dependency=name, stage="rewrite")

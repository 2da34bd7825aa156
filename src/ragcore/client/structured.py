"""Structured answers: reads the model's reply, and asks once more if it does not fit the schema."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ragcore.client.answering import generate, sum_of
from ragcore.client.components import Generators
from ragcore.config import EXTRACTIVE
from ragcore.errors import InvalidAnswer, RagcoreError, Unsupported
from ragcore.events import emit
from ragcore.generation.ending import is_complete
from ragcore.generation.extractive import ExtractiveGenerator
from ragcore.generation.not_found import NotFound
from ragcore.generation.structure import Mismatch, Structure, read_reply
from ragcore.operating.calls import Call
from ragcore.types import Degradation, Generation, Prompt, Usage

__all__ = ["Structured", "generate_structured", "plus"]

# The model's rejected reply is a part of the second prompt.
MOST_REJECTED = 20_000


@dataclass(frozen=True, slots=True)
class Structured:
    """A structured answer: the text with its citations, and the data as a value of the caller's schema.

    Attributes:
        generation: the text, without the data.
        data: the value; None if the passages don't answer the question, or if the answer is a quotation.
        rejected: the tokens of the replies that did not fit. They are charged already.
    """

    generation: Generation
    data: object
    rejected: Usage = Usage()


async def generate_structured(
    call: Call,
    prompt: Prompt,
    generators: Generators,
    structure: Structure,
    *,
    degrade: bool,
    count: Callable[[Call, Usage, str], None],
) -> Structured:
    """Return the answer and its data. A reply that does not fit is sent back to the model once, with the mistakes.

    Args:
        count: charges the tenant for a reply that was rejected.

    Raises:
        InvalidAnswer: the second reply does not fit either, and `degrade` is False.
        Unsupported: the client has no model, and `degrade` is False.
    """
    rejected = Usage()
    for repaired in (False, True):
        try:
            generation = await generate(call, prompt, generators, degrade=degrade)
        except RagcoreError as failure:
            if not repaired or not degrade:
                raise
            error = failure  # the model has replied once, so quote instead of raising an error, even if the model is overloaded now
            break
        if generation.model == EXTRACTIVE:
            return Structured(_quoted(generation, degrade=degrade), None, rejected)
        try:
            return replace(_read(generation, structure), rejected=rejected)
        except Mismatch as mismatch:
            error = _invalid(generation, mismatch)
            emit("answer.rejected", generation.model, repaired=repaired)
            rejected = plus(rejected, _charge(call, generation, count))
            if _is_cut_off(generation):  # another reply would be cut off as well
                break
            prompt = replace(prompt, rejected=(generation.text[:MOST_REJECTED], mismatch.mistakes))
    if not degrade:
        raise error
    quoted = await ExtractiveGenerator().generate(prompt)
    failed = Degradation("generate", str(error), EXTRACTIVE, error=type(error).__name__)
    return Structured(replace(quoted, degraded=(failed,)), None, rejected)


def _read(generation: Generation, structure: Structure) -> Structured:
    """Return the answer and the data of a reply. No text and no data mean that the passages don't answer the question.

    Raises:
        Mismatch: the reply does not fit the schema.
    """
    if _says_not_found(generation.text):
        return Structured(replace(generation, text=""), None)
    reply = read_reply(generation.text)
    if reply.data is None or _says_not_found(reply.answer):
        return Structured(replace(generation, text="", quotations=None), None)
    return Structured(replace(generation, text=reply.answer, quotations=None), structure.value_of(reply.data))


def _says_not_found(text: str) -> bool:
    """Whether a text is empty, or means NOT_FOUND."""
    found = NotFound()
    found.take(text)
    found.end()
    return found.said or not text.strip()


def _quoted(generation: Generation, *, degrade: bool) -> Generation:
    """Return a quotation with the reason why it has no data."""
    if generation.degraded:
        return generation
    reason = "a quotation has no data: schema= needs a model"
    if not degrade:
        raise Unsupported(f"{reason}; set Config.models, or leave out schema=", stage="generate")
    return replace(generation, degraded=(Degradation("generate", reason, EXTRACTIVE),))


def _charge(call: Call, generation: Generation, count: Callable[[Call, Usage, str], None]) -> Usage:
    """Charge a rejected reply, and the models that failed before it. Return its tokens."""
    usage = call.estimated() if generation.usage.prompt_tokens is None else generation.usage
    for model, used in ((generation.model, usage), *generation.spent):
        count(call, used, model)
    call.written = 0  # the rest of the call is charged by what is written from now on
    return usage


def _invalid(generation: Generation, mismatch: Mismatch) -> InvalidAnswer:
    name, why = generation.model, mismatch.places
    if _is_cut_off(generation):
        why = f"it was cut off (finish_reason {generation.finish_reason}); raise max_tokens"
    error = InvalidAnswer(f"the reply of {name} does not fit the schema: {why}", dependency=name, stage="generate")
    error.model = name
    return error


def _is_cut_off(generation: Generation) -> bool:
    return not (generation.complete and is_complete(generation.finish_reason))


def plus(first: Usage, second: Usage) -> Usage:
    """Return the sum of the tokens of two uses of a model."""
    return replace(
        first,
        prompt_tokens=sum_of(first.prompt_tokens, second.prompt_tokens),
        completion_tokens=sum_of(first.completion_tokens, second.completion_tokens),
    )

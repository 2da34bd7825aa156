"""The steps from a question to its answer, each a function: validate, retrieve, prompt, generate, cite.

`RAG` manages the call, its deadline and its accounting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ragcore.client.components import Generators
from ragcore.client.options import AskOptions, RetrieveOptions
from ragcore.client.rewriting import Rewriter
from ragcore.config import EXTRACTIVE, Settings
from ragcore.errors import ConfigurationError, DeadlineExceeded, InvalidInput, Overloaded, RagcoreError
from ragcore.events import emit
from ragcore.generation.citations import find_citations
from ragcore.generation.ending import is_complete
from ragcore.generation.extractive import excerpt
from ragcore.generation.prompt import build_prompt
from ragcore.generation.streams import collect
from ragcore.generation.structure import Structure
from ragcore.lifecycle.stages import Stopwatch
from ragcore.operating.calls import Call
from ragcore.operating.used import spent_by
from ragcore.resilience.deadline import reserve
from ragcore.retrieval.options import SearchOptions
from ragcore.retrieval.plan import plan_search
from ragcore.retrieval.retriever import Retriever
from ragcore.types import Answer, Citation, Degradation, Generation, Prompt, Retrieval, Turn, Usage
from ragcore.types.validation import (
    check_history,
    check_instructions,
    check_max_tokens,
    check_stop,
    check_temperature,
)

__all__ = ["Request", "cite", "generate", "make_prompt", "retrieve", "search_of", "sum_of", "validate"]

# The reserve for quotation is the end of a call's time: this number of seconds, but at most this share of the time.
RESERVE_SECONDS = 0.5
RESERVE_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A checked request. The settings fill in the options that the caller leaves out.

    Attributes:
        question: not checked here; the retriever checks it before it sends anything.
        max_tokens: None: the generator's own limit, else that of the settings.
        temperature: None: the generator's default.
        structure: the schema of the answer's data; None: the answer has no data.
    """

    question: str
    search: SearchOptions
    history: tuple[Turn, ...]
    instructions: str
    max_tokens: int | None
    temperature: float | None
    stop: tuple[str, ...]
    degrade: bool
    structure: Structure | None = None


def validate(question: str, options: AskOptions, settings: Settings, *, schema: object = None) -> Request:
    """Return the checked request.

    Raises:
        InvalidInput: an option is invalid.
    """
    instructions = options.get("instructions")
    search = search_of(options, settings)
    return Request(
        question=question,
        search=search,
        history=check_history(options.get("history", ())),
        instructions=settings.instructions if instructions is None else check_instructions(instructions),
        max_tokens=check_max_tokens(options.get("max_tokens")),
        temperature=check_temperature(options.get("temperature")),
        stop=check_stop(options.get("stop")),
        degrade=bool(search["degrade"]),
        structure=None if schema is None else Structure.of(schema),
    )


def search_of(options: RetrieveOptions, settings: Settings) -> SearchOptions:
    """Return the options of a call that go to the retriever, which checks them itself."""
    degrade = options.get("degrade")
    search: SearchOptions = {"degrade": settings.degrade if degrade is None else degrade}
    for name in SearchOptions.__optional_keys__ - {"degrade"}:
        if name in options:
            search[name] = options[name]  # type: ignore[literal-required]  # both types have this key
    return search


async def retrieve(
    call: Call,
    retriever: Retriever,
    question: str,
    search: SearchOptions,
    *,
    history: Sequence[Turn],
    rewriter: Rewriter,
) -> Retrieval:
    """Return the passages, and record their number in the call. The search uses the stand-alone form of a follow-up question."""
    if search.get("query") is None and history:
        plan_search(retriever, question, call.tenant, search)  # an invalid option must raise before a model is asked
        rewritten = await rewriter.rewrite(call, question, history, degrade=search["degrade"] is not False)
        asked: SearchOptions = {**search, "query": rewritten.query}
        retrieval = rewritten.reported(await retriever.retrieve(question, tenant=call.tenant, **asked))
    else:
        retrieval = await retriever.retrieve(question, tenant=call.tenant, **search)
    call.findings.searched(retrieval)
    call.passages = len(retrieval.passages)
    return retrieval


def make_prompt(
    request: Request, retrieval: Retrieval, settings: Settings, count_tokens: Callable[[str], int]
) -> Prompt | None:
    """Return the prompt; None if there are no passages: without them, a model would invent an answer.

    Raises:
        ConfigurationError: the best passage alone is too large for a prompt.
    """
    if not retrieval.passages:
        return None
    prompt = build_prompt(
        retrieval.question,
        query="" if retrieval.query == retrieval.question else retrieval.query,
        passages=retrieval.passages,
        history=request.history,
        instructions=request.instructions,
        budget=settings.prompt_tokens,
        max_tokens=settings.max_tokens if request.max_tokens is None else request.max_tokens,
        max_tokens_from="settings" if request.max_tokens is None else "call",
        temperature=request.temperature,
        stop=request.stop,
        schema=None if request.structure is None else request.structure.schema,
        count_tokens=count_tokens,
    )
    if not prompt.passages:
        raise ConfigurationError(
            f"the best passage does not fit into a prompt of {settings.prompt_tokens:,} tokens: raise prompt_tokens, "
            "or ingest with smaller chunk_tokens",
            stage="generate",
        )
    return prompt


async def generate(call: Call, prompt: Prompt, generators: Generators, *, degrade: bool) -> Generation:
    """Return the generation. With `degrade`, quotation replaces a generator that fails; the end of the call's time is reserved for quotation."""
    call.prompt = prompt
    with Stopwatch().measure("generate"):
        if not degrade:
            return await collect(generators.strict.stream(prompt), on_piece=call.saw)
        try:
            with reserve(RESERVE_SECONDS, share=RESERVE_SHARE):
                return await collect(generators.degrading.stream(prompt), on_piece=call.saw)
        except (Overloaded, InvalidInput):  # the caller must see these; quotation would hide them
            raise
        except RagcoreError as error:
            name = generators.name
            emit("generator.failed", name, error=type(error).__name__)
            spent = spent_by(error)
            if call.written and not spent:
                spent = ((generators.first_name, call.estimated()),)
            quoted = await generators.quoting.generate(prompt)
            late = isinstance(error, DeadlineExceeded)
            reason = f"{name} did not finish in time: {error}" if late else str(error)
            failed = Degradation("generate", reason, EXTRACTIVE, error=type(error).__name__)
            return replace(quoted, degraded=(failed, *quoted.degraded), spent=spent)


def cite(
    call: Call, settings: Settings, retrieval: Retrieval, prompt: Prompt | None, generation: Generation | None
) -> Answer:
    """Make the answer from the generation's text and its citations. If there is no generation, the answer's text comes from the settings."""
    answer = Answer(
        settings.not_searched if _not_searched(retrieval) else settings.not_found,
        found=False,
        retrieval=retrieval,
        degraded=retrieval.degraded,
        timings=replace(call.timings, total=call.elapsed()),
        usage=retrieval.usage,
        call_id=call.id,
    )
    if generation is None or prompt is None:
        return answer
    degraded = (*retrieval.degraded, *generation.degraded)
    found = bool(generation.text.strip())
    text, citations = settings.not_found, answer.citations
    if found:
        text = generation.text
        citations = find_citations(generation.text, prompt.passages, quotations=generation.quotations)
    elif any(part.stage == "generate" and part.fallback == EXTRACTIVE for part in degraded):
        # No model has read the passages, so "not found" would be untrue.
        text = f"{settings.not_answered}\n\n{excerpt(prompt.passages[0])} [1]"
        citations = (Citation(1, prompt.passages[0], len(text) - len("[1]"), len(text)),)
    return replace(
        answer,
        text=text,
        found=found,
        citations=citations,
        degraded=degraded,
        usage=Usage(
            embedding_tokens=sum_of(retrieval.usage.embedding_tokens, generation.usage.embedding_tokens),
            prompt_tokens=sum_of(retrieval.usage.prompt_tokens, generation.usage.prompt_tokens),
            completion_tokens=sum_of(retrieval.usage.completion_tokens, generation.usage.completion_tokens),
        ),
        model=generation.model,
        finish_reason=generation.finish_reason,
        complete=generation.complete and is_complete(generation.finish_reason),
        request_ids=(generation.request_id,) if generation.request_id else (),
    )


def _not_searched(retrieval: Retrieval) -> bool:
    """Whether nothing was found because the search was incomplete. The documents may still contain the answer."""
    empty = retrieval.empty
    incomplete = any(part.stage != "rewrite" for part in retrieval.degraded)
    return empty is not None and (incomplete or empty.code in ("not_embedded", "other_model"))


def sum_of(first: int | None, second: int | None) -> int | None:
    """Return the sum of two numbers, of which either may be unknown."""
    return second if first is None else first if second is None else first + second
